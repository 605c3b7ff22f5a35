"""Real clients through SOCKS and HTTP CONNECT, to servers that they have no route to."""

from __future__ import annotations

import contextlib
import sys

import attrs
import pytest

from .matrix import Samples
from .namespaces import Side, reach
from .place import FAMILIES, HTTP_PORT, HTTPS_PORT, USER, WHO_PORT, Place, doors
from .terms import Family
from .ways import (
    CONNECTORS,
    FETCHING,
    FETCHING_BY_TLS,
    LIBRARIES,
    SCHEMES,
    Door,
    Speech,
    Way,
    shown,
    shows,
)


def fetch(place: Place, way: Way, door: Door, server: str, scheme: str = "http") -> bytes:
    """What the program prints; nothing if it fails."""
    if lack := way.missing():
        pytest.skip(f"package missing: {lack}")
    port = HTTPS_PORT if scheme == "https" else HTTP_PORT
    command = way.command(door, server, port, scheme=scheme, authority=place.authority)
    said = place.net.run(Side.CLIENT, ["sh", "-c", '"$@" | od -An -tx1', "sh", *command])
    return bytes.fromhex(said)


@pytest.mark.parametrize("way", shown(FETCHING, "HTTP"))
def test_fetching_by_http(place: Place, samples: Samples, way: Way) -> None:
    for door in doors(way, place):
        for server in place.servers(way):
            assert fetch(place, way, door, server) == samples.content("one.bin")


@pytest.mark.parametrize("way", shown([*FETCHING, *FETCHING_BY_TLS], "HTTPS"))
def test_fetching_by_https(place: Place, samples: Samples, way: Way) -> None:
    """Client and server speak TLS with each other, and nobody in between."""
    for door in doors(way, place):
        for server in place.servers(way):
            found = fetch(place, way, door, server, "https")
            assert found == samples.content("one.bin")


def fetch_by_aiohttp(place: Place, door: Door, scheme: str) -> bytes:
    command = [sys.executable, LIBRARIES, "aiohttp-socks", door.url(scheme)]
    server = [place.net.server_name(4), str(HTTP_PORT)]
    return bytes.fromhex(place.net.run(Side.CLIENT, [*command, *server]))


@pytest.mark.parametrize(
    "speech",
    [pytest.param(speech, marks=shows(speech, "HTTP", "aiohttp-socks")) for speech in SCHEMES],
)
def test_fetching_by_aiohttp(place: Place, samples: Samples, speech: Speech) -> None:
    name = "http" if speech is Speech.HTTP else "socks"
    found = [place.door(name)] + (
        [] if speech is Speech.SOCKS4 else [place.door("mixed", user=True)]
    )
    for door in found:
        assert fetch_by_aiohttp(place, door, SCHEMES[speech]) == samples.content("one.bin")


@pytest.mark.parametrize("way", shown(CONNECTORS, "TCP"))
def test_connectors(place: Place, way: Way) -> None:
    for door in doors(way, place):
        for server in place.servers(way):
            peer, _, said = place.run(way, door, server, WHO_PORT).split()
            family: Family = 6 if ":" in server else 4
            assert peer == place.net.proxy_address(Side.SERVER, family)
            assert said == "hello"


# Nobody gets anywhere without the proxy, or past its users.


def test_without_the_proxy_there_is_no_way(place: Place) -> None:
    for family in FAMILIES:
        server = place.net.address(Side.SERVER, family)
        assert "unreachable" in reach(place.net, Side.CLIENT, server, WHO_PORT)
        assert reach(place.net, Side.PROXY, server, WHO_PORT) == "connected"
    assert "resol" in reach(place.net, Side.CLIENT, place.net.server_name(4), WHO_PORT)


def lock_outs(place: Place, way: Way) -> list[Door]:
    """The listener with users: without a login, and with a wrong one if the program has any."""
    door = place.door("mixed")
    return [door] if way.login is None else [door, attrs.evolve(door, user=USER, password="guess")]


@pytest.mark.parametrize("way", [*FETCHING, *FETCHING_BY_TLS], ids=str)
def test_nothing_is_fetched_without_a_login(place: Place, way: Way) -> None:
    scheme = "http" if way in FETCHING else "https"
    for door in lock_outs(place, way):
        for server in place.servers(way):
            assert fetch(place, way, door, server, scheme) == b""


@pytest.mark.parametrize("way", CONNECTORS, ids=str)
def test_connectors_connect_nobody_without_a_login(place: Place, way: Way) -> None:
    for door in lock_outs(place, way):
        for server in place.servers(way):
            said = ""
            with contextlib.suppress(AssertionError):  # of its exit code, where it has one for this
                said = place.run(way, door, server, WHO_PORT)
            assert not said


@pytest.mark.parametrize("speech", [Speech.SOCKS4, Speech.SOCKS5, Speech.HTTP])
def test_aiohttp_fetches_nothing_without_a_login(place: Place, speech: Speech) -> None:
    door, scheme = place.door("mixed"), SCHEMES[speech]
    wrong = attrs.evolve(door, user=USER, password="guess")
    for each in [door] if speech is Speech.SOCKS4 else [door, wrong]:
        with pytest.raises(AssertionError, match="ProxyError"):
            fetch_by_aiohttp(place, each, scheme)
