"""The order in which addresses are tried; the examples are those of RFC 6724 section 10.2."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwproxy.names.order import in_order, source_towards


def ordered(*pairs):
    """Put addresses in order that have these own ones towards them."""
    sources = dict(pairs)
    return in_order(sources, sources.__getitem__)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # Prefer the address whose scope the source has.
        (("2001:db8:1::1", "2001:db8:1::2"), ("198.51.100.121", "169.254.13.78")),
        (("198.51.100.121", "198.51.100.117"), ("2001:db8:1::1", "fe80::1")),
        # Prefer the higher precedence.
        (("2001:db8:1::1", "2001:db8:1::2"), ("10.1.2.3", "10.1.2.4")),
        (("2001:db8:1::1", "2001:db8:1::2"), ("2002:c633:6401::1", "2002:c633:6401::2")),
        # Prefer the smaller scope.
        (("fe80::1", "fe80::2"), ("2001:db8:1::1", "2001:db8:1::2")),
        # Prefer the address whose label the source has.
        (("2002:c633:6401::1", "2002:c633:6401::2"), ("2001:db8:1::1", "2002:c633:6401::2")),
        (("10.1.2.3", "10.1.2.4"), ("2001:db8:1::1", "fd00::1")),
        (("192.0.2.1", "192.0.2.2"), ("fd00::1", "fd00::2")),
        (("fec0::1", "fec0::2"), ("2001:db8:1::1", "fec0::2")),
        # Avoid what cannot be reached.
        (("192.0.2.1", "192.0.2.2"), ("2001:db8:1::1", None)),
        (("127.0.0.1", "127.0.0.1"), ("::1", None)),
    ],
)
def test_the_better_of_two_comes_first(first, second):
    expected = (first[0], second[0])
    assert ordered(first, second) == expected
    assert ordered(second, first) == expected


def test_equals_stay_as_the_server_has_mixed_them():
    hosts = [f"192.0.2.{number}" for number in (7, 3, 5)]
    assert ordered(*((host, "192.0.2.1") for host in hosts)) == tuple(hosts)
    assert ordered(*((host, None) for host in hosts)) == tuple(hosts)


def test_the_zone_of_a_source_does_not_matter():
    assert ordered(("2001:db8::1", "fe80::1%lan0"), ("192.0.2.1", "192.0.2.2"))[0] == "192.0.2.1"


@given(st.lists(st.tuples(st.ip_addresses(), st.none() | st.ip_addresses(v=6)), unique=True))
def test_whatever_they_are_none_is_lost(pairs):
    sources = {str(host): source and str(source) for host, source in pairs}
    assert sorted(in_order(sources, sources.__getitem__)) == sorted(sources)


def test_the_own_address_towards_another():
    assert source_towards("127.0.0.9") == "127.0.0.1"
    assert source_towards("255.255.255.255") is None  # what needs a permission leads nowhere
    own = source_towards("::1")
    assert own is None or ipaddress.ip_address(own).is_loopback


def test_an_address_with_a_zone_has_its_place_too():
    assert in_order(["fe80::1%lo", "127.0.0.1", "fe80::1%none"])[0] == "127.0.0.1"
