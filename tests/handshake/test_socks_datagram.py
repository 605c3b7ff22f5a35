"""The heads of datagrams between SOCKS 5 clients and the proxy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwproxy.address import Endpoint, HostName
from fwproxy.errors import InvalidArgumentError
from fwproxy.handshake.socks_datagram import head, parse


@pytest.mark.parametrize(
    "source", [Endpoint("192.0.2.7", 53), Endpoint("2001:db8::7", 65535)], ids=str
)
def test_a_head_that_was_written_is_read(source):
    found = parse(head(source) + b"data")
    assert (found.destination, found.data) == (source, b"data")


def test_a_name_is_read():
    found = parse(b"\0\0\0\3\x09a.example\0\x35query")
    assert (found.destination, found.data) == (HostName("a.example", 53), b"query")


@pytest.mark.parametrize(
    ("datagram", "problem"),
    [
        (b"\0\0\1\1\1\2\3\4\0\x35x", "fragment"),
        (b"\0\0\x80\1\1\2\3\4\0\x35x", "fragment"),
        (b"\0\1\0\1\1\2\3\4\0\x35x", "wrong head"),
        (b"\0\0\0\2\1\2\3\4\0\x35x", "wrong head"),
        (b"", "without a head"),
        (b"\0\0\0\1", "without a head"),
        (b"\0\0\0\1\1\2\3\4\0", "incomplete"),
        (b"\0\0\0\3\xffa.example\0\x35", "incomplete"),
        (b"\0\0\0\3\0\0\x35", "name"),
    ],
)
def test_a_wrong_head_is_an_error(datagram, problem):
    with pytest.raises(InvalidArgumentError, match=problem):
        parse(datagram)


@given(st.binary(max_size=300))
def test_anything_is_a_datagram_or_an_error(datagram):
    try:
        found = parse(b"\0\0\0" + datagram)
    except InvalidArgumentError:
        return
    assert datagram.endswith(found.data)
