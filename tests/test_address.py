"""Endpoints, host names and sets of hosts."""

import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwproxy.address import (
    Comparison,
    Endpoint,
    HostName,
    IpFilter,
    parse_destination,
    parse_prefix,
    split_host_port,
)
from fwproxy.errors import InvalidArgumentError

V4 = st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).map(str)
HOSTS = V4 | V6
PORTS = st.integers(0, 65535)


@given(HOSTS, PORTS)
def test_an_endpoint_survives_its_own_spelling(host, port):
    endpoint = Endpoint(host, port)
    assert Endpoint.parse(str(endpoint)) == endpoint


@given(st.ip_addresses(v=6), PORTS)
def test_every_spelling_of_an_address_is_the_same_endpoint(address, port):
    assert Endpoint(address.exploded, port) == Endpoint(address.compressed, port)
    assert hash(Endpoint(address.exploded.upper(), port)) == hash(Endpoint(str(address), port))


@given(HOSTS, PORTS)
def test_the_kernels_form_of_an_address_is_the_same_endpoint(host, port):
    endpoint = Endpoint(host, port)
    assert Endpoint.from_sockaddr(endpoint.sockaddr) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "21", "127.0.0.1", "127.0.0.1:", ":21", "127.0.0.1:x", "127.0.0.1:-1",
        "127.0.0.1:+1", "127.0.0.1: 1", "127.0.0.1:65536", "127.0.0.1:000021", "127.0.0.1:²",
        "127.0.0.1:\N{ARABIC-INDIC DIGIT ONE}", "[::1]", "[::1]21", "[::1]:", "[]:21",
        "::1:21", "2001:db8::1:21",
        "localhost:21", "127.0.0.256:1", "[::1:21", "::1]:21", "1.2.3.4:5:6",
    ],
)  # fmt: skip
def test_other_forms_are_no_endpoints(text):
    with pytest.raises(InvalidArgumentError):
        Endpoint.parse(text)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_is_within_16_bits(port):
    with pytest.raises(InvalidArgumentError):
        Endpoint("127.0.0.1", port)
    with pytest.raises(InvalidArgumentError):
        Endpoint("127.0.0.1").with_port(port)


def test_what_an_endpoint_knows_of_itself():
    four, six = Endpoint("10.0.0.8", 1553), Endpoint("2001:DB8::0:1", 21)
    assert (four.version, six.version) == (4, 6)
    assert (str(four), str(six)) == ("10.0.0.8:1553", "[2001:db8::1]:21")
    assert four.with_port(7) == Endpoint("10.0.0.8", 7)
    assert Endpoint("0.0.0.0").is_unspecified
    assert Endpoint("::").is_unspecified
    assert not four.is_unspecified


@pytest.mark.parametrize(
    ("text", "default", "found"),
    [
        ("ftp.example:2121", None, ("ftp.example", 2121)),
        ("ftp.example", 21, ("ftp.example", 21)),
        ("[2001:db8::1]", 21, ("2001:db8::1", 21)),
        ("[2001:db8::1]:22", 21, ("2001:db8::1", 22)),
        ("10.0.0.1", 21, ("10.0.0.1", 21)),
    ],
)
def test_a_host_and_a_port_come_apart(text, default, found):
    assert split_host_port(text, default) == found


@pytest.mark.parametrize("text", ["", ":", "host:", "[::1]x", "::1", "2001:db8::1"])
def test_a_default_port_excuses_nothing_else(text):
    with pytest.raises(InvalidArgumentError):
        split_host_port(text, 21)


def test_a_destination_is_an_address_or_a_name():
    assert parse_destination("10.0.0.1", 21) == Endpoint("10.0.0.1", 21)
    assert parse_destination("[::1]:22") == Endpoint("::1", 22)
    assert parse_destination("ftp.example:22") == HostName("ftp.example", 22)
    assert str(HostName("ftp.example", 22)) == "ftp.example:22"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a..b",
        "a b",
        "a/b",
        "a@b",
        "a\nb",
        "a\0b",
        "[a]",
        "a\\b",
        "x" * 64,
        "a." * 127 + "bc",
    ],
)
def test_what_cannot_be_a_name_is_none(name):
    with pytest.raises(InvalidArgumentError):
        HostName(name, 21)


@pytest.mark.parametrize("prefix", ["10.0.0.1/24", "10.0.0.0/33", "x", "10.0.0", "::/129"])
def test_a_prefix_has_no_host_bits(prefix):
    with pytest.raises(InvalidArgumentError):
        parse_prefix(prefix)


# A small universe where sets are affordable, at the bottom and the top of both families.

UNIVERSE = [
    *(str(ipaddress.IPv4Address(n)) for n in range(24)),
    *(str(ipaddress.IPv4Address(2**32 - 1 - n)) for n in range(8)),
    *(str(ipaddress.IPv6Address(n)) for n in range(24)),
    *(str(ipaddress.IPv6Address(2**128 - 1 - n)) for n in range(8)),
]


def hosts_in(low: str, high: str) -> set[str]:
    first, last = ipaddress.ip_address(low), ipaddress.ip_address(high)
    members = {ipaddress.ip_address(host) for host in UNIVERSE}
    same = {m for m in members if m.version == first.version}
    return {str(m) for m in same if int(first) <= int(m) <= int(last)}


@st.composite
def ranges(draw: st.DrawFn) -> tuple[str, str]:
    version = draw(st.sampled_from([4, 6]))
    pool = [h for h in UNIVERSE if ipaddress.ip_address(h).version == version]
    pair = sorted(draw(st.tuples(*[st.sampled_from(pool)] * 2)), key=ipaddress.ip_address)
    return pair[0], pair[1]


def described(steps: list[tuple[str, tuple[str, str]]]) -> tuple[IpFilter, set[str]]:
    """Carry steps out on a filter and on a plain set."""
    made, model = IpFilter(), set()
    for step, (low, high) in steps:
        hosts = hosts_in(low, high)
        if step == "include":
            made, model = made.include_range(low, high), model | hosts
        elif step == "exclude":
            made, model = made.exclude_range(low, high), model - hosts
        elif step == "include one":
            made, model = made.include(low), model | {low}
        else:
            made, model = made.exclude(low), model - {low}
    return made, model


STEPS = st.lists(
    st.tuples(st.sampled_from(["include", "exclude", "include one", "exclude one"]), ranges()),
    max_size=8,
)


@given(STEPS)
def test_a_filter_holds_what_a_set_would_hold(steps):
    made, model = described(steps)
    assert {host for host in UNIVERSE if made.is_included(host)} == model
    assert bool(made) is bool(model)


@given(STEPS, STEPS)
def test_filters_combine_and_compare_like_sets(one, other):
    (a, in_a), (b, in_b) = described(one), described(other)
    union, rest = a.include_filter(b), a.exclude_filter(b)
    assert {host for host in UNIVERSE if union.is_included(host)} == in_a | in_b
    assert {host for host in UNIVERSE if rest.is_included(host)} == in_a - in_b
    # Ranges may reach beyond the universe only between its low and its high end.
    if a == b:
        assert in_a == in_b
    assert union == b.include_filter(a)
    assert rest.include_filter(b) == union


@given(STEPS, STEPS)
def test_filters_compare_as_subsets_do(one, other):
    (a, in_a), (b, in_b) = described(one), described(other)
    both = a.intersect(b)
    assert {host for host in UNIVERSE if both.is_included(host)} == in_a & in_b
    assert (a <= b) is (a.include_filter(b) == b)
    assert both <= a
    assert both <= b
    expected = {
        (True, True): Comparison.EQUAL,
        (True, False): Comparison.SUBSET,
        (False, True): Comparison.SUPERSET,
        (False, False): Comparison.OVERLAPPING if both else Comparison.DISJOINT,
    }
    assert a.compare(b) is expected[a <= b, b <= a]


def test_filters_and_ranges_are_told_apart_in_words():
    small, big = IpFilter.only("10.0.0.0/24"), IpFilter.only("10.0.0.0/8")
    assert small.compare(big) is Comparison.SUBSET
    assert big.compare(small) is Comparison.SUPERSET
    assert small.compare(IpFilter().include_range("10.0.0.0", "10.0.0.255")) is Comparison.EQUAL
    assert small.compare(IpFilter.only("::/0")) is Comparison.DISJOINT
    assert big.compare(IpFilter().include_range("9.0.0.0", "10.0.0.1")) is Comparison.OVERLAPPING
    assert IpFilter() <= small


@given(STEPS)
def test_a_clone_is_equal_and_changing_one_leaves_the_other(steps):
    made, model = described(steps)
    clone = made.clone()
    assert clone == made
    assert clone.exclude("10.0.0.1").is_included("10.0.0.1") is False
    assert clone == made
    assert {host for host in UNIVERSE if made.is_included(host)} == model


def test_ten_thousand_prefixes_hold_what_they_say():
    """A look-up is one binary search: the same however many there are."""
    rng = random.Random(7)
    prefixes = {
        *(f"{ipaddress.IPv4Address(rng.getrandbits(24) << 8)}/24" for _ in range(8000)),
        *(f"{ipaddress.IPv6Address(rng.getrandbits(48) << 80)}/48" for _ in range(2000)),
    }
    made = IpFilter().include(*prefixes)
    nets = {ipaddress.ip_network(prefix) for prefix in prefixes}
    for prefix in rng.sample(sorted(prefixes), 300):
        net = ipaddress.ip_network(prefix)
        assert made.is_included(str(net.network_address))
        assert made.is_included(str(net.broadcast_address))
    for _ in range(300):
        host = ipaddress.IPv4Address(rng.getrandbits(32))
        inside = ipaddress.ip_network((int(host) & ~0xFF, 24)) in nets
        assert made.is_included(str(host)) is inside
    assert made.exclude(*prefixes) == IpFilter()


@given(STEPS)
def test_a_filter_is_a_value(steps):
    made, model = described(steps)
    made.include("10.0.0.0/8").exclude("0.0.0.0/0")
    assert {host for host in UNIVERSE if made.is_included(host)} == model
    assert hash(made) == hash(IpFilter().include_filter(made))


def test_no_filter_is_everybody_and_an_empty_one_nobody():
    assert not IpFilter()
    assert not IpFilter().is_included("10.0.0.1")
    assert str(IpFilter()) == "nobody"
    for host in ("0.0.0.0", "255.255.255.255", "::", "ffff::1"):
        assert IpFilter.everyone().is_included(host)
    assert IpFilter.everyone().exclude("0.0.0.0/0", "::/0") == IpFilter()


def test_the_families_are_apart():
    assert not IpFilter.only("::/0").is_included("0.0.0.1")
    assert not IpFilter.only("0.0.0.0/0").is_included("::1")


def test_a_filter_spells_its_ranges():
    made = IpFilter.only("10.0.0.0/30", "10.0.0.4", "2001:db8::1")
    assert str(made) == "10.0.0.0-10.0.0.4, 2001:db8::1"


@pytest.mark.parametrize(
    ("first", "last"), [("10.0.0.2", "10.0.0.1"), ("10.0.0.1", "::1"), ("x", "10.0.0.1")]
)
def test_a_range_goes_up_within_one_family(first, last):
    with pytest.raises(InvalidArgumentError):
        IpFilter().include_range(first, last)
