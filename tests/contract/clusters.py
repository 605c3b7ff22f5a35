"""Worlds in which a filter shares ports with `share_redirection`, as for a cluster."""

from rig import PROBE_DATA, free_ports, open_world

from fwproxy import Endpoint, HostName
from fwproxy.config.shared import SharedAllow, SharedConfig
from fwproxy.errors import NoServerReplyError

LOOPBACK = SharedAllow(names=("*.cluster",), prefixes=("127.0.0.0/8", "::1/128"))
NAME = HostName("one.cluster", 9092)


def shared(count=8, *, linger=0.0, **settings):
    """Settings under which everything on loopback may be shared."""
    settings.setdefault("allow", (LOOPBACK,))
    return SharedConfig(ports=free_ports(count), linger=linger, **settings)


def open_cluster(*filters, settings=None, **rest):
    return open_world(*filters, shared=settings or shared(), **rest)


async def share(primary, target, **settings):
    settings.setdefault("protocol", PROBE_DATA)
    return await primary.session.share_redirection(target, **settings)


async def end(world, *primaries):
    for primary in primaries:
        primary.client.close()
        primary.server.close()
        await world.ended(primary.session)


def resolve_to(world, monkeypatch, names):
    """Let names resolve as the table says at that moment; return who was asked for."""
    asked = []

    async def resolve(destination):
        asked.append(destination.host)
        if destination.host not in names:
            raise NoServerReplyError(f"{destination.host} does not resolve")
        return [Endpoint(host, destination.port) for host in names[destination.host]]

    monkeypatch.setattr(world.engine.resolver, "resolve", resolve)
    return asked
