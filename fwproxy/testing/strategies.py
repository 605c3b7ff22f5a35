"""Strategies for hypothesis, which is not installed with fwproxy but with `fwproxy[testing]`."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st

from fwproxy.address import Endpoint

MAX_CUTS = 20


@st.composite
def cut(draw: st.DrawFn, contents: st.SearchStrategy[bytes]) -> list[bytes]:
    """Some bytes, in pieces, empty ones among them."""
    data = draw(contents)
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=MAX_CUTS))
    bounds = [0, *sorted(cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


def endpoints(version: int | None = None) -> st.SearchStrategy[Endpoint]:
    """Addresses with a port other than 0, of one IP version or both.

    IPv6 addresses that stand for an IPv4 one are not among them: `Endpoint` makes them that one.
    """
    ports = st.integers(1, 65535)
    if version is None:
        return endpoints(4) | endpoints(6)
    addresses = st.ip_addresses(v=4 if version == 4 else 6).map(str)
    made = st.builds(Endpoint, addresses, ports)
    return made.filter(lambda endpoint: endpoint.version == version)
