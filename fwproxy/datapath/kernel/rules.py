"""The rules of fwproxy's table, in nftables' own language.

A new connection is looked up once: whoever may come is found by address, port and peer in one of
three sets, and goes on to the chain that admits it. Unless the pinhole lasts for many, that uses it
up. Then it gets the mark that makes it one of ours, and is translated. Later packets never get
here: conntrack translates them by itself.

There are no maps with verdicts: whenever one gets an element, the kernel looks at all elements of
all of them again, in search of a loop.

The first packet of a pinhole for one connection puts it into `used` with a limit of one packet
a week, atomically: a second connection, however simultaneous, finds the limit spent. Where the
set is full the rule does not match either, so that nothing is translated: a failure closes.

What is refused ends at the proxy's own socket, which is bound and does not listen: a reset.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from fwproxy.datapath.kernel.passage import Passage

_IP = {4: "ip", 6: "ip6"}
_ADDRESS = {4: "ipv4_addr", 6: "ipv6_addr"}
_KEY = "meta l4proto . {ip} daddr . th dport"
_BEFORE_DNAT, _BEFORE_SNAT = -101, 99
"""Just before the usual places, so that an operator's own rules do not translate what is ours."""
_AFTER_CONNTRACK, _FILTER = -150, 0


def table(
    name: str,
    mark: int,
    *,
    max_pinholes: int,
    owner: bool,
    timeouts: Mapping[str, int] | None = None,
) -> str:
    """Return the commands that make the table.

    Args:
        name: its name.
        mark: the conntrack mark of our flows.
        max_pinholes: how many elements a set may have.
        owner: whether nobody else may change it.
        timeouts: seconds that conntrack remembers a TCP connection without packets, by state;
            None leaves it to the host's settings.
    """
    lines = [f"table inet {name} {{", "flags owner;" if owner else ""]
    for version in (4, 6):
        lines += _sets(version, max_pinholes)
        lines += _timeouts(version, timeouts)
        lines += _translating(version, mark, is_patient=timeouts is not None)
    lines += _chain("pinholes", [rule for version in (4, 6) for rule in _dispatching(version)])
    jump = ["jump pinholes"]
    lines += _chain("passages", [])
    both = [*jump, "jump passages"]
    lines += _chain("prerouting", both, f"type nat hook prerouting priority {_BEFORE_DNAT};")
    lines += _chain("output", jump, f"type nat hook output priority {_BEFORE_DNAT};")
    sources = [f"ct mark {mark} {_source(version)}" for version in (4, 6)]
    hidden = [*sources, f"ct mark {mark + 1} masquerade"]
    lines += _chain("postrouting", hidden, f"type nat hook postrouting priority {_BEFORE_SNAT};")
    lines += _chain("input", sources, f"type nat hook input priority {_BEFORE_SNAT};")
    # Nearly all packets, so that they need not be looked at any further.
    usual = ["ct state established meta l4proto tcp accept"]
    killed = usual + [rule for version in (4, 6) for rule in _guarding(version, mark)]
    guard = f"type filter hook {{}} priority {_AFTER_CONNTRACK};"
    lines += _chain("guard", killed, guard.format("prerouting"))
    lines += _chain("guard_output", killed, guard.format("output"))
    # User space has a connection with either end, each as the route to it allows.
    clamp = "tcp flags & (syn|rst) == syn tcp option maxseg size set rt mtu"
    accept = [f"ct mark {mark} {clamp}", f"ct mark {mark} accept", f"ct mark {mark + 1} {clamp}"]
    lines += _chain("forward", accept, f"type filter hook forward priority {_FILTER};")
    return "\n".join([*lines, "}"])


def _chain(name: str, rules: Iterable[str], kind: str = "") -> list[str]:
    return [f"chain {name} {{", kind, *rules, "}"]


def _sets(version: int, size: int) -> Iterator[str]:
    address = _ADDRESS[version]
    key = f"inet_proto . {address} . inet_service"
    bound = f"size {size};"
    targets = f"{address} . inet_service"
    yield f"map targets{version} {{ type {key} : {targets}; flags timeout; {bound} }}"
    yield f"set lasting{version} {{ type {key}; flags timeout; {bound} }}"
    yield f"set open{version} {{ type {key}; flags timeout; {bound} }}"
    peers = f"type {address} . {key};"
    yield f"set peers{version} {{ {peers} flags timeout; {bound} }}"
    yield f"set ranges{version} {{ {peers} flags timeout, interval; {bound} }}"
    yield f"map sources{version} {{ type {address} . {key} : {address}; {bound} }}"
    yield f"set used{version} {{ type {key}; flags dynamic, timeout; timeout 1d; {bound} }}"
    yield f"set mute{version} {{ type {address} . {address} . inet_service; {bound} }}"
    five = f"{address} . inet_service . {address} . inet_service . inet_proto"
    yield f"set killed{version} {{ type {five}; flags timeout; {bound} }}"


def _timeouts(version: int, timeouts: Mapping[str, int] | None) -> Iterator[str]:
    if timeouts is not None:
        states = ", ".join(f"{state} : {seconds}" for state, seconds in timeouts.items())
        yield f"ct timeout patient{version} {{ protocol tcp; l3proto {_IP[version]};"
        yield f"policy = {{ {states} }}; }}"


def _translating(version: int, mark: int, *, is_patient: bool) -> Iterator[str]:
    ip = _IP[version]
    key = _KEY.format(ip=ip)
    once = f"add @used{version} {{ {key} limit rate 1/week burst 1 packets }} goto many{version}"
    translate = f"dnat {ip} to {key} map @targets{version}"
    steps = [f"ct mark set {mark}", translate]
    if is_patient:
        steps.insert(0, f'meta l4proto tcp ct timeout set "patient{version}"')
    yield from _chain(f"many{version}", steps)
    lasts = f"{key} @lasting{version} goto many{version}"
    yield from _chain(f"admitted{version}", [lasts, once])


def _dispatching(version: int) -> Iterator[str]:
    ip = _IP[version]
    key = _KEY.format(ip=ip)
    admit = f"goto admitted{version}"
    yield f"{ip} saddr . {key} @peers{version} {admit}"
    yield f"{key} @open{version} {admit}"
    yield f"{ip} saddr . {key} @ranges{version} {admit}"


def _source(version: int) -> str:
    ip = _IP[version]
    key = f"ct original {ip} daddr . {_KEY.format(ip=ip)}"
    return f"snat {ip} to {key} map @sources{version}"


def _guarding(version: int, mark: int) -> Iterator[str]:
    ip = _IP[version]
    answer = f"ct mark {mark} ct direction reply meta l4proto udp"
    mute = f"ct original {ip} daddr . {ip} saddr . th sport @mute{version}"
    yield f"{answer} {mute} drop"
    five = f"{ip} saddr . th sport . {ip} daddr . th dport . meta l4proto @killed{version}"
    late = "ct state != established"
    yield f"{late} {five} meta l4proto tcp reject with tcp reset"
    yield f"{late} {five} drop"


def passages(name: str, found: Iterable[Passage], mark: int) -> str:
    """Return the commands that let protocols through, the first match first.

    Args:
        name: the table.
        found: what to let through.
        mark: for what is to get another source address.
    """
    return "\n".join(f"add rule inet {name} passages {_passage(each, mark)}" for each in found)


def _passage(found: Passage, mark: int) -> str:
    ip, ports = _IP[found.version], ", ".join(map(str, found.ports))
    nfproto = {4: "ipv4", 6: "ipv6"}[found.version]
    parts = [f"meta nfproto {nfproto} {found.transport.value} dport {{ {ports} }}"]
    parts += [f"{ip} saddr {found.source}"] if found.source else []
    parts += [f"{ip} daddr {found.target}"] if found.target else []
    if not found.is_open:
        return " ".join([*parts, "return"])
    parts.append("fib daddr type != local")
    parts += [f"ct mark set {mark}"] if found.is_translated else []
    # A translation to what it is anyhow: no later rule can redirect it to the proxy.
    return " ".join([*parts, f"counter dnat {ip} to {ip} daddr"])


def remove(name: str) -> str:
    """Return the command that removes the table."""
    return f"delete table inet {name}"
