"""Each spelling of an address: strict, and its two halves each other's inverses."""

import contextlib
import ipaddress
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fwproxy.address import Endpoint, HostName
from fwproxy.kit.endpoints import (
    Barred,
    CountedHost,
    DecimalAddress,
    EndpointError,
    FamilyError,
    HostPort,
    Packed,
    SixNumbers,
    parse_host,
)
from fwproxy.testing.strategies import endpoints

V4, V6 = Endpoint("10.0.0.8", 1553), Endpoint("2001:db8::1", 5282)
NAME = HostName("node-1.example", 9092)
LABELS = st.from_regex(r"[a-z](?:[a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
NAMES = st.builds(
    HostName, st.lists(LABELS, min_size=1, max_size=4).map(".".join), st.integers(1, 65535)
)

BOTH = {
    "barred": Barred(),
    "packed": Packed(),
    "packed, little": Packed("little"),
    "decimal": DecimalAddress(),
    "decimal, colon": DecimalAddress(b","),
}
ALL = {
    "host:port": HostPort(),
    "host:port, default": HostPort(default_port=80),
    "host:port, bare": HostPort(brackets=False),
    "host:port, bare, default": HostPort(brackets=False, default_port=80),
    "counted": CountedHost(),
    "counted, short": CountedHost(">B", "<H"),
}
EVERY = {"six": SixNumbers(), "no names": HostPort(names=False), **BOTH, **ALL}


@pytest.mark.parametrize(
    ("codec", "where", "spelled"),
    [
        (SixNumbers(), V4, b"10,0,0,8,6,17"),
        (HostPort(), V4, b"10.0.0.8:1553"),
        (HostPort(), V6, b"[2001:db8::1]:5282"),
        (HostPort(), NAME, b"node-1.example:9092"),
        (HostPort(brackets=False), V6, b"2001:db8::1:5282"),
        (HostPort(default_port=1553), V4, b"10.0.0.8"),
        (HostPort(default_port=5282), V6, b"[2001:db8::1]"),
        (HostPort(brackets=False, default_port=5282), V6, b"2001:db8::1:5282"),
        (Barred(), V4, b"|1|10.0.0.8|1553|"),
        (Barred(), V6, b"|2|2001:db8::1|5282|"),
        (Packed(), V4, b"\x0a\0\0\x08\x06\x11"),
        (Packed(), V6, b"\x20\x01\x0d\xb8" + bytes(11) + b"\x01\x14\xa2"),
        (Packed("little"), V4, b"\x0a\0\0\x08\x11\x06"),
        (DecimalAddress(), V4, b"167772168 1553"),
        (DecimalAddress(), V6, b"2001:db8::1 5282"),
        (CountedHost(), V4, b"\0\x0810.0.0.8\0\0\x06\x11"),
        (CountedHost(), NAME, b"\0\x0enode-1.example\0\0\x23\x84"),
    ],
)
def test_each_spelling(codec, where, spelled):
    assert codec.format(where) == spelled
    assert codec.parse(spelled) == where


@given(endpoints(4))
def test_six_numbers_are_reversible(where):
    assert SixNumbers().parse(SixNumbers().format(where)) == where


@pytest.mark.parametrize("codec", [*BOTH.values(), *ALL.values()], ids=[*BOTH, *ALL])
@given(where=endpoints())
@settings(max_examples=50)
def test_what_is_formatted_is_read_back(codec, where):
    assert codec.parse(codec.format(where)) == where


@pytest.mark.parametrize("codec", ALL.values(), ids=ALL)
@given(where=NAMES)
@settings(max_examples=50)
def test_names_that_are_formatted_are_read_back(codec, where):
    assert codec.parse(codec.format(where)) == where


SEEDS = [codec.format(V4) for codec in EVERY.values()] + [
    codec.format(V6) for codec in (BOTH | ALL).values()
]


@st.composite
def damaged(draw):
    """A right spelling with some of its bytes replaced, gone or doubled; or no spelling at all."""
    data = bytearray(draw(st.sampled_from(SEEDS) | st.binary(max_size=40)))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 4)))
        data[start:end] = draw(st.sampled_from([b"", b"0", b"9", b" ", b":", b"]", b"\0", b"\xb2"]))
    return bytes(data)


@pytest.mark.parametrize("codec", EVERY.values(), ids=EVERY)
@given(data=damaged())
@settings(max_examples=100)
def test_garbage_is_an_error_or_exactly_what_stands_there(codec, data):
    try:
        where = codec.parse(data)
    except EndpointError:
        return
    assert 1 <= where.port <= 65535
    # Only the spelling of an IPv6 address may differ, and the delimiter of the barred form.
    again = codec.format(where)
    if isinstance(where, Endpoint) and where.version == 6:
        again, data = canonical(again), canonical(data)
    if isinstance(codec, Barred):
        again, data = again.replace(again[:1], b"|"), data.replace(data[:1], b"|")
    if isinstance(codec, HostPort) and codec.default_port == where.port:
        again, data = (text.removesuffix(b":80") for text in (again, data))
    if isinstance(codec, CountedHost) and where.host.find(":") >= 0:
        return  # the length is that of another spelling; the text is checked with the others
    assert again == data


def canonical(data):
    """Return the bytes with IPv6 addresses in their usual spelling."""

    def one(found):
        text, colon, port = found[0].decode(), "", ""
        with contextlib.suppress(ValueError):
            return str(ipaddress.IPv6Address(text)).encode()
        text, colon, port = text.rpartition(":")
        with contextlib.suppress(ValueError):
            return f"{ipaddress.IPv6Address(text)}{colon}{port}".encode()
        return found[0]

    return re.sub(rb"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]+", one, data)


@pytest.mark.parametrize(
    "text",
    [
        b"", b":80", b"10.0.0.8", b"10.0.0.8:", b"10.0.0.8:0", b"10.0.0.8:65536", b"10.0.0.8:080",
        b"10.0.0.8:+80", b"10.0.0.8: 80", b"10.0.0.8:80 ", b"10.0.0.8:80\n", b"010.0.0.8:80",
        b"10.0.8:80", b"10.0.0.256:80", b"0x0a.0.0.8:80", b"10.0.0.8.:80", b"10:80",
        b"2001:db8::1:80", b"[2001:db8::1]", b"[2001:db8::1%eth0]:80", b"[::ffff:10.0.0.8]:80",
        b"[10.0.0.8]:80", b"[node]:80", b"[2001:db8::1]:80:80", b"-a.example:80", b"a-.example:80",
        b"a..example:80", b".example:80", b"a b:80", b"a;b:80", b"a@b:80", b"\xc3\xa9.example:80",
        b"%b:80" % (b"a" * 254), b"10.0.0.8:\xd9\xa1",
    ],
)  # fmt: skip
def test_what_is_nearly_a_host_and_port_is_none(text):
    with pytest.raises(EndpointError):
        HostPort().parse(text)


@pytest.mark.parametrize(
    ("codec", "data"),
    [
        (SixNumbers(), b"10,0,0,8,6"),
        (SixNumbers(), b"10,0,0,8,6,17,1"),
        (SixNumbers(), b"10,0,0,8,0,0"),
        (SixNumbers(), b"10, 0,0,8,6,17"),
        (SixNumbers(), b"10,0,0,08,6,17"),
        (Barred(), b"|1|2001:db8::1|80|"),
        (Barred(), b"|1|10.0.0.8|80"),
        (Barred((2,)), b"|1|10.0.0.8|80|"),
        (Packed(), b"12345"),
        (Packed(), bytes(4) + b"\0\0"),
        (Packed(), bytes(10) + b"\xff\xff\x0a\0\0\x08\0\x50"),
        (DecimalAddress(), b"4294967296 80"),
        (DecimalAddress(), b"0167772168 80"),
        (DecimalAddress(), b"10.0.0.8 80"),
        (DecimalAddress(), b"167772168  80"),
        (CountedHost(), b"\xff\xff\0\0\0\x50"),
        (CountedHost(), b"\0\x0710.0.0.8\0\0\0\x50"),
        (CountedHost(), b"\0\x0810.0.0.8\0\x01\0\0"),
        (CountedHost(), b"\0"),
    ],
)
def test_what_is_nearly_an_address_is_none(codec, data):
    with pytest.raises(EndpointError):
        codec.parse(data)


@pytest.mark.parametrize(
    ("codec", "where"),
    [
        (SixNumbers(), V6),
        (SixNumbers(), NAME),
        (SixNumbers(), V4.with_port(0)),
        (Packed(), NAME),
        (DecimalAddress(), NAME),
        (Barred(), NAME),
        (Barred((1,)), V6),
        (HostPort(names=False), NAME),
        (HostPort(), HostName("a;b", 80)),
        (HostPort(), HostName("é.example", 80)),
        (HostPort(), V4.with_port(0)),
        (CountedHost(">B"), HostName("é.example", 80)),
        (CountedHost(">b"), HostName(".".join(["a" * 60] * 3), 80)),
        (CountedHost(">h", ">h"), V4.with_port(40000)),
    ],
)
def test_what_cannot_be_spelled_is_refused(codec, where):
    with pytest.raises(EndpointError):
        codec.format(where)


def test_the_family_is_told_from_other_errors():
    with pytest.raises(FamilyError):
        SixNumbers().format(V6)
    for wrong in (b"|3|10.0.0.8|80|", b"|01|10.0.0.8|80|"):
        with pytest.raises(FamilyError):
            Barred().parse(wrong)
    with pytest.raises(EndpointError) as caught:
        Barred().parse(b"|x|10.0.0.8|80|")
    assert not isinstance(caught.value, FamilyError)


def test_redis_means_the_same_host_where_it_names_none():
    codec = HostPort(brackets=False, same_host="192.0.2.1")
    assert codec.parse(b":6379") == Endpoint("192.0.2.1", 6379)
    assert codec.parse(b"192.0.2.7:6379") == Endpoint("192.0.2.7", 6379)


def test_a_name_takes_no_time_however_long_it_is():
    for text in (b"a" * 250 + b"!", b"a." * 120 + b"!", b"-" * 250, b"a-" * 125):
        with pytest.raises(EndpointError):
            parse_host(text, names=True)


def test_names_that_end_with_a_number_are_nobodys():
    for text in (b"1.2.3", b"1", b"a.1", b"a.1."):
        with pytest.raises(EndpointError):
            parse_host(text, names=True)
