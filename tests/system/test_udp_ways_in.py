"""Datagrams by UDP ASSOCIATE, and by a forward listener."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest

from .namespaces import Side
from .place import FAMILIES, PROGRAMS, WHO_PORT, Place
from .processes import find_program
from .proxy import Listener, running_proxy
from .terms import Family, Target
from .ways import LIBRARIES, Speech, shows


@shows(Speech.SOCKS5, "UDP", "any program by socksify")
def test_udp_by_socksify(place: Place, socksify: tuple[str, ...]) -> None:
    host = place.net.address(Side.SERVER)
    command = [
        *socksify,
        sys.executable,
        PROGRAMS / "who.py",
        "ask",
        "udp",
        host,
        str(WHO_PORT),
        "3",
    ]
    lines = [line.split() for line in place.net.run(Side.CLIENT, command).splitlines()]
    peer = place.net.proxy_address(Side.SERVER)
    assert [(line[0], line[2]) for line in lines] == [(peer, "0"), (peer, "1"), (peer, "2")]


@shows(Speech.SOCKS5, "UDP", "PySocks")
@pytest.mark.parametrize("user", [False, True])
def test_udp_by_pysocks(place: Place, user: bool) -> None:  # noqa: FBT001 - a case
    door = place.door("mixed" if user else "socks", user=user)
    for server in (place.net.address(Side.SERVER), place.net.server_name(4)):
        command = [sys.executable, LIBRARIES, "pysocks-udp", door.url("socks5"), server]
        peer, _, said = place.net.run(Side.CLIENT, [*command, str(WHO_PORT)]).split()
        assert (peer, said) == (place.net.proxy_address(Side.SERVER), "hello")


@pytest.fixture
def name_server(place: Place) -> Iterator[str]:
    host = place.net.address(Side.SERVER)
    names = [sys.executable, PROGRAMS / "names.py", host, "203.0.113.5"]
    with place.net.popen(Side.SERVER, names) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        yield host


@shows(Speech.SOCKS5, "DNS", "drill by socksify")
def test_names_by_socksify_and_drill(
    place: Place, name_server: str, socksify: tuple[str, ...]
) -> None:
    if find_program("drill") is None:
        pytest.skip("package missing: ldnsutils")
    drill = [*socksify, "drill", "-Q", "a.example.org", f"@{name_server}", "A"]
    assert place.net.run(Side.CLIENT, drill).split() == ["203.0.113.5"]


@shows(Speech.SOCKS5, "DNS", "dig by PySocks")
@pytest.mark.parametrize("user", [False, True])
def test_names_by_dig(place: Place, name_server: str, user: bool) -> None:  # noqa: FBT001 - a case
    """Not by socksify: dig sends with sendmmsg(2), and Dante's library only stands before others.

    Its query leaves without a SOCKS head then, and the proxy drops it.
    """
    if find_program("dig") is None:
        pytest.skip("package missing: bind9-dnsutils")
    url = place.door("mixed" if user else "socks", user=user).url("socks5")
    relay = [sys.executable, LIBRARIES, "pysocks-relay", url, name_server, "53"]
    dig = ["dig", "+short", "+tries=1", "+time=2", "a.example.org", "A"]
    with place.net.popen(Side.CLIENT, relay) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        by_relay = [*dig, "@127.0.0.1", "-p", port]
        assert place.net.run(Side.CLIENT, by_relay).split() == ["203.0.113.5"]
    with pytest.raises(AssertionError, match="no servers could be reached"):
        place.net.run(Side.CLIENT, [*dig, f"@{name_server}"])


@shows("forward", "DNS", "dig")
@pytest.mark.parametrize("family", FAMILIES)
def test_names_by_a_forward_listener(place: Place, name_server: str, family: Family) -> None:
    if find_program("dig") is None:
        pytest.skip("package missing: bind9-dnsutils")
    here = place.net.proxy_address(Side.CLIENT, family)
    dig = ["dig", "+short", "+tries=1", "+time=2", f"@{here}", "a.example.org", "A"]
    with pytest.raises(AssertionError, match="no servers could be reached"):
        place.net.run(Side.CLIENT, dig)
    listener = Listener("names", here, Target(name_server, 53, "", ""), port=53, protocol="udp")
    with running_proxy([listener], namespace=place.net.namespace(Side.PROXY)) as proxy:
        assert place.net.run(Side.CLIENT, dig).split() == ["203.0.113.5"]
        proxy.send(signal.SIGTERM)  # which ends the session of the datagrams
        assert proxy.exit_code() == 0
        (closed,) = proxy.logged("connection closed")
        assert closed["server"] == f"{name_server}:53"
