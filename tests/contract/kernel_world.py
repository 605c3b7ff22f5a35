"""A world whose connections the kernel carries, and what nftables says of it."""

import json

from calls import bind, proxy_address
from own_network import NEAR, shell
from rig import open_world

from fwproxy.config.config import DatapathConfig, Limits

LONG = Limits(idle_timeout=1e6)
LONG_BUT_REMEMBERED = Limits(idle_timeout=4e5)
"""Less than conntrack remembers a connection that rests."""
FORWARDING_OFF = (
    "echo 0 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv6/conf/all/forwarding"
)


def world(*filters, **settings):
    """Open a world whose kernel path must work; there is no forwarding, as all ends are here."""
    settings.setdefault("datapath", DatapathConfig(kernel="require"))
    settings.setdefault("limits", LONG)
    return open_world(*filters, **settings)


def auto_world(*filters, **settings):
    """Open a world on a host that forwards, where the kernel path is used by default."""
    shell("echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
    settings.setdefault("host", NEAR)
    settings.setdefault("limits", LONG_BUT_REMEMBERED)
    return open_world(*filters, **settings)


def elements():
    """Return how many elements the sets of all tables have, those without any left out."""
    # Without the tables: nft 1.0.6 sometimes prints broken JSON of one that is owned.
    printed = [shell(f"nft -j list {kind}") for kind in ("sets", "maps")]
    found = [entry for each in printed for entry in json.loads(each)["nftables"]]
    sets = [entry.get("map") or entry.get("set") for entry in found]
    counts = {each["name"]: len(each.get("elem", [])) for each in sets if each}
    return {name: count for name, count in counts.items() if count}


def tables():
    return [line.split()[-1] for line in shell("nft list tables").splitlines()]


def path(world):
    return world.engine.kernel.path


async def opened(world, primary, **settings):
    """Bind for a listening client; return the connection and the client's end."""
    client = world.listen()
    (connection,) = await bind(primary, client.address, **settings)
    return connection, client


async def come(world, connection, client, source=None):
    """Connect through a pinhole; return the server's and the client's socket."""
    server = await world.connect(proxy_address(connection), source)
    return server, await world.accept(client)


def add_chain(hook, *rules, policy="accept", kind="filter", priority="0", table="strict"):
    """Add a base chain to a table that is nobody's of ours."""
    base = f"type {kind} hook {hook} priority {priority}; policy {policy};"
    shell(f"nft 'add table inet {table}; add chain inet {table} one'")
    shell(f"nft 'add chain inet {table} at_{hook} {{ {base} }}'")
    for rule in rules:
        shell(f"nft 'add rule inet {table} at_{hook} {rule}'")


def reason(world):
    return world.engine.kernel.why_not


async def near(world, **settings):
    """Bind for a client that listens; return the connection and the client's end."""
    primary = await world.primary(source=NEAR)
    client = world.listen(NEAR)
    (connection,) = await bind(primary, client.address, **settings)
    return primary, connection, client
