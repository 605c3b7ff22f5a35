"""A firewall on a network that a test plays, and what it is configured to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from fwproxy.address import Destination, Endpoint
from fwproxy.config.config import Config, DatapathConfig
from fwproxy.config.listeners import ListenerConfig, ListenerKind
from fwproxy.datapath.poll import Poller
from fwproxy.engine.engine import Engine
from fwproxy.filter import Filter
from fwproxy.firewall import Firewall
from fwproxy.policy.policy import Rule
from fwproxy.protocol import BUILT_IN, ProtocolDefinition
from fwproxy.testing.network import Network
from fwproxy.testing.recording import RecordingEngine, RecordingSession

CLIENT = {4: "10.0.0.8", 6: "fd00::8"}
SERVER = {4: "192.0.2.1", 6: "2001:db8::1"}
PROXY_INSIDE = {4: "10.0.0.1", 6: "fd00::1"}
PROXY_OUTSIDE = {4: "198.51.100.1", 6: "2001:db8::99"}
LISTENER = "scripted"


class ScriptedFirewall(Firewall):
    """A firewall on a network that a test plays."""

    session_class = RecordingSession

    def __init__(self, config: Config, filters: Sequence[type[Filter]], network: Network) -> None:
        super().__init__(config, filters)
        self._network = network
        self.log: list[structlog.typing.EventDict] = []

    def _make_engine(self) -> Engine:
        network = self._network
        poller = Poller(network.loop, network.epoll, network.open_socket)
        engine = RecordingEngine.start(self.config, poller, choose=_counted())
        engine.log = structlog.wrap_logger(
            None, processors=[self._keep], wrapper_class=structlog.make_filtering_bound_logger(10)
        )
        return engine

    def _keep(
        self, _: object, level: str, line: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        self.log.append({**line, "level": level})
        raise structlog.DropEvent


def _counted() -> Any:
    """Return a function that chooses one place after the other."""
    count = 0

    def choose(places: int) -> int:
        nonlocal count
        count += 1
        return (count - 1) % places

    return choose


def script_config(
    bind: Endpoint,
    protocol: ProtocolDefinition,
    protocols: Sequence[ProtocolDefinition],
    kind: ListenerKind,
    upstream: Destination | None,
    users: str | None,
    settings: Mapping[str, Mapping[str, Any]] | None,
    rest: Mapping[str, Any],
) -> Config:
    """Return the configuration of one listener for one protocol."""
    known = {each.name: each for each in (*BUILT_IN, *protocols, protocol)}
    rules = () if kind is ListenerKind.FORWARD else (Rule(allow=True),)
    return Config(
        (ListenerConfig(LISTENER, bind, protocol.name, kind, upstream, users=users),),
        protocols=tuple(known.values()),
        filters=settings or {},
        **{"rules": rules, "datapath": DatapathConfig(max_pipes=0), **rest},
    )
