"""PROXY headers, versions 1 and 2: read at every cut, and what is written is read again."""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwproxy.address import Endpoint, Transport
from fwproxy.errors import InvalidArgumentError
from fwproxy.handshake.proxy_header import MAX_EXTRA, MAX_LINE, SIGNATURE, parse, write

CLIENT4, SERVER4 = Endpoint("192.0.2.7", 56324), Endpoint("198.51.100.9", 443)
CLIENT6, SERVER6 = Endpoint("2001:db8::7", 1), Endpoint("2001:db8::9", 65535)
PORTS = st.integers(0, 65535)


def binary(command: int, kind: int, body: bytes, size: int | None = None) -> bytes:
    return (
        SIGNATURE + struct.pack("!BBH", command, kind, len(body) if size is None else size) + body
    )


BODY4 = CLIENT4.ip.packed + SERVER4.ip.packed + struct.pack("!HH", 56324, 443)
WRITTEN = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.9 56324 443\r\n", CLIENT4, SERVER4),
    (b"PROXY TCP6 2001:db8::7 2001:db8::9 1 65535\r\n", CLIENT6, SERVER6),
    (b"PROXY UNKNOWN\r\n", None, None),
    (b"PROXY UNKNOWN 192.0.2.7 what ever\r\n", None, None),
    (binary(0x21, 0x11, BODY4), CLIENT4, SERVER4),
    (binary(0x21, 0x12, BODY4), CLIENT4, SERVER4),
    (binary(0x21, 0x11, BODY4 + b"\x04\x00\x01x"), CLIENT4, SERVER4),
    (binary(0x20, 0x00, b""), None, None),
    (binary(0x20, 0x11, BODY4), None, None),
    (binary(0x21, 0x31, bytes(216)), None, None),
    (binary(0x21, 0x00, b"anything"), None, None),
]


@pytest.mark.parametrize(("data", "source", "destination"), WRITTEN)
def test_a_header_is_read_at_every_cut(data, source, destination):
    for size in range(len(data)):
        assert parse(data[:size]) is None
    header = parse(data + b"\r\nmore")
    assert (header.used, header.source, header.destination) == (len(data), source, destination)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXX",
        b"proxy TCP4",
        b"PROXY TCP4 192.0.2.7 198.51.100.9 56324\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.9 56324 443 \r\n",
        b"PROXY TCP4  192.0.2.7 198.51.100.9 56324 443\r\n",
        b"PROXY TCP5 192.0.2.7 198.51.100.9 56324 443\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::9 1 2\r\n",
        b"PROXY TCP6 192.0.2.7 198.51.100.9 1 2\r\n",
        b"PROXY TCP4 a.example 198.51.100.9 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.9 01 2\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.9 65536 2\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.9 -1 2\r\n",
        b"PROXY TCP4 \xff 198.51.100.9 1 2\r\n",
        b"PROXY \r\n",
        b"PROXY " + b"x" * MAX_LINE,
        binary(0x22, 0x11, BODY4),
        binary(0x11, 0x11, BODY4),
        binary(0x21, 0x11, BODY4[:-1]),
        binary(0x21, 0x21, BODY4),
        binary(0x21, 0x11, b"", MAX_EXTRA + 1),
    ],
)
def test_what_is_no_header_is_an_error(data):
    with pytest.raises(InvalidArgumentError):
        parse(data)


ENDPOINTS = st.one_of(
    st.builds(lambda host, port: Endpoint(str(host), port), st.ip_addresses(v=4), PORTS),
    st.builds(
        lambda host, port: Endpoint(str(host), port),
        st.ip_addresses(v=6, network=ipaddress.ip_network("2001:db8::/32")),
        PORTS,
    ),
)


@given(st.sampled_from([1, 2]), ENDPOINTS, ENDPOINTS, st.binary(max_size=20))
def test_what_is_written_is_read(version, source, destination, more):
    data = write(version, source, destination)
    header = parse(data + more)
    assert header.used == len(data)
    if source.version == destination.version:
        assert (header.source, header.destination) == (source, destination)
    else:
        assert header.source is None


def test_datagrams_are_only_in_version_2():
    assert write(1, CLIENT4, SERVER4, Transport.UDP) == b"PROXY UNKNOWN\r\n"
    assert write(2, CLIENT4, SERVER4, Transport.UDP)[13] == 0x12


@given(st.sampled_from([b"PROXY ", SIGNATURE, b""]), st.binary(max_size=300))
def test_anything_is_a_header_an_error_or_too_short(start, rest):
    try:
        header = parse(start + rest) if start + rest else None
    except InvalidArgumentError:
        return
    assert header is None or header.used <= len(start + rest)
