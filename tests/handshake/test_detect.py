"""Several handshakes on one port, told apart by the first byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from steps import drive, essence

from fwproxy.address import Endpoint
from fwproxy.handshake.base import Command, Refusal, Request
from fwproxy.handshake.detect import Detect

REQUEST = (Command.CONNECT, Endpoint("1.2.3.4", 80))
HANDSHAKES = {
    "socks4": b"\4\1\0\x50\1\2\3\4\0",
    "socks5": b"\5\1\0\5\1\0\1\1\2\3\4\0\x50",
    "http": b"CONNECT 1.2.3.4:80 HTTP/1.1\r\nHost: 1.2.3.4:80\r\n\r\n",
}


@pytest.mark.parametrize("name", HANDSHAKES)
@pytest.mark.parametrize(("socks", "http"), [(True, True), (True, False), (False, True)])
def test_what_a_listener_takes(name, socks, http):
    handshake = Detect(needs_login=False, with_socks=socks, with_http=http)
    steps, _ = drive(handshake, [HANDSHAKES[name]])
    if http if name == "http" else socks:
        assert essence(steps)[-1] == REQUEST
        assert handshake.name == name
    else:
        assert isinstance(steps[-1], Refusal)


@given(st.lists(st.binary(min_size=1, max_size=600), min_size=1, max_size=6))
def test_anything_ends_in_a_request_a_refusal_or_patience(pieces):
    handshake = Detect(needs_login=False, with_socks=True, with_http=True)
    steps, rest = drive(handshake, pieces)
    over = steps and isinstance(steps[-1], Request | Refusal)
    assert over or len(rest) < handshake.max_size
