"""The settings of shared redirections, `[shared]`."""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs

from fwproxy.address import Destination, is_ip, parse_destination, parse_prefix
from fwproxy.bounds import PortRange, not_negative
from fwproxy.errors import ConfigError, InvalidArgumentError
from fwproxy.problems import Place

_Texts = tuple[str, ...]

_PATTERN = re.compile(r"[a-z0-9*_-]+(\.[a-z0-9*_-]+)*", re.ASCII | re.IGNORECASE)


def _patterns(
    _: object, attribute: attrs.Attribute[tuple[str, ...]], names: tuple[str, ...]
) -> None:
    for name in names:
        if not _PATTERN.fullmatch(name) or name.rpartition(".")[2].isdigit():
            problem = f"{name!r} is no host name, with or without *: addresses are for prefixes"
            raise ConfigError.at((), problem, attribute.name)


def _prefixes(
    _: object, attribute: attrs.Attribute[tuple[str, ...]], items: tuple[str, ...]
) -> None:
    for item in items:
        try:
            parse_prefix(item)
        except InvalidArgumentError as error:
            raise ConfigError.at((), str(error), attribute.name) from None


def _targets_port(_: object, attribute: attrs.Attribute[int], port: int) -> None:
    if not 1 <= port <= 65535:
        raise ConfigError.at((), f"must be in 1-65535, not {port}", attribute.name)


def _with_port(_: object, attribute: attrs.Attribute[Destination], target: Destination) -> None:
    if not target.port:
        raise ConfigError.at((), f"{target.host} needs a port", attribute.name)


def _advertised(_: object, attribute: attrs.Attribute[str | None], text: str | None) -> None:
    try:
        if text is not None and not is_ip(text):
            parse_destination(text, 1)
    except InvalidArgumentError as error:
        raise ConfigError.at((), str(error), attribute.name) from None


@attrs.frozen(slots=True)
class SharedAllow:
    """Targets that may be shared.

    Attributes:
        names: host names; `*` stands for any characters.
        prefixes: addresses; where there are names too, what those must resolve to.
        ports: their ports; none is every port.
    """

    names: tuple[str, ...] = attrs.field(default=(), validator=_patterns)
    prefixes: tuple[str, ...] = attrs.field(default=(), validator=_prefixes)
    ports: tuple[PortRange, ...] = ()


@attrs.frozen(slots=True)
class SharedTarget:
    """One target with a port of its own; it may be shared.

    Attributes:
        target: the server, an address or a name with its port.
        port: where the proxy listens for it.
        advertise: what clients are told, an address or a name, with or without a port; None is
            the address that they know the proxy by, and the port above.
        listener: for the clients of this listener only; None is every listener.
    """

    target: Destination = attrs.field(validator=_with_port)
    port: int = attrs.field(validator=_targets_port)
    advertise: str | None = attrs.field(default=None, validator=_advertised)
    listener: str | None = None


@attrs.frozen(slots=True)
class SharedConfig:
    """Shared redirections: ports that stand for servers, the same ones for every client.

    Attributes:
        ports: their range, apart from the pool of `[secondary]`.
        linger: seconds that one stays open which nobody uses any more.
        memory: a file that keeps which target has which port, over restarts.
        allow: what may be shared; without any, and without targets, nothing is.
        targets: those with ports of their own.
    """

    ports: PortRange = attrs.field(default=PortRange(50000, 50999))
    linger: float = attrs.field(default=300.0, validator=not_negative)
    memory: str | None = None
    allow: tuple[SharedAllow, ...] = ()
    targets: tuple[SharedTarget, ...] = ()

    @property
    def is_used(self) -> bool:
        """Whether anything can be shared at all."""
        return bool(self.allow or self.targets)

    def problems(self, pool: PortRange, listeners: set[str]) -> Iterator[tuple[str, Place, str]]:
        """Yield what does not fit together: the subject in words, its place, and what is wrong."""
        if self.is_used and self.ports.first <= pool.last and pool.first <= self.ports.last:
            problem = f"{self.ports} overlaps the pool {pool} of [secondary]"
            yield "shared", ("shared", "ports"), problem
        seen: set[tuple[str | None, int]] = set()
        for number, each in enumerate(self.targets):
            subject, place = f"shared target {each.target}", ("shared", "targets", number)
            if each.port not in range(self.ports.first, self.ports.last + 1):
                yield subject, (*place, "port"), f"{each.port} is not in {self.ports}"
            taken = {(None, each.port), (each.listener, each.port)} & seen
            everywhere = each.listener is None and each.port in {port for _, port in seen}
            if taken or everywhere:
                yield subject, (*place, "port"), f"another target has port {each.port}"
            seen.add((each.listener, each.port))
            if each.listener is not None and each.listener not in listeners:
                yield subject, (*place, "listener"), f"there is no listener {each.listener!r}"
