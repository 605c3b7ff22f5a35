"""What all sessions of one firewall share."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import attrs
import structlog

from fwproxy.clock import Deadlines
from fwproxy.config import Config, Limits
from fwproxy.datapath.pipes import PipePool
from fwproxy.datapath.poll import Poller
from fwproxy.expected import ExpectedConnects, RedirectedPorts
from fwproxy.flags import SecondaryFlags
from fwproxy.ledger import Ledger
from fwproxy.log import get_logger
from fwproxy.policy import Policy
from fwproxy.ports import PortPool
from fwproxy.protocol import ProtocolDefinition
from fwproxy.resolve import Resolver
from fwproxy.shared import SharedPorts


@attrs.define(slots=True, eq=False)
class Engine:
    """The parts that a running firewall is made of, made together and closed together."""

    loop: asyncio.AbstractEventLoop
    config: Config
    policy: Policy
    poller: Poller
    deadlines: Deadlines
    pipes: PipePool
    ports: PortPool
    resolver: Resolver
    protocols: dict[str, ProtocolDefinition]
    limits: Limits
    shared: SharedPorts
    log: structlog.typing.FilteringBoundLogger
    ledger: Ledger = attrs.field(factory=Ledger)
    expected: ExpectedConnects = attrs.field(factory=ExpectedConnects)
    redirected: RedirectedPorts = attrs.field(factory=RedirectedPorts)
    password_checks: asyncio.Semaphore = attrs.field(factory=lambda: asyncio.Semaphore(1))
    address_flags: SecondaryFlags = SecondaryFlags.NONE
    session_numbers: Iterator[int] = attrs.field(factory=lambda: itertools.count(1))
    connection_numbers: Iterator[int] = attrs.field(factory=lambda: itertools.count(1))
    permission_numbers: Iterator[int] = attrs.field(factory=lambda: itertools.count(1))

    @classmethod
    def start(cls, config: Config) -> Engine:
        """Make the parts and put them on the running loop."""
        loop = asyncio.get_running_loop()
        deadlines = Deadlines(loop.time)
        deadlines.start(loop)
        return cls(
            loop=loop,
            config=config,
            policy=config.policy(),
            poller=Poller(loop),
            deadlines=deadlines,
            pipes=PipePool(config.datapath.max_pipes, config.datapath.pipe_size),
            ports=PortPool(config.secondary.ports, config.limits.max_reserved_ports),
            resolver=Resolver(
                config.limits.max_resolutions,
                lambda: deadlines.now(),  # noqa: PLW0108 - tests replace it
                memory=config.limits.name_memory,
                max_names=config.limits.max_names,
            ),
            protocols={protocol.name: protocol for protocol in config.protocols},
            limits=config.limits,
            shared=SharedPorts(config.shared, config.limits.max_shared_redirections),
            log=get_logger().bind(),
            password_checks=asyncio.Semaphore(config.limits.max_password_checks),
            address_flags=config.secondary.address_flags,
        )

    def close(self) -> None:
        """Take the parts off the loop; no session may be left."""
        self.ports.close()
        self.deadlines.stop()
        self.poller.close()
        self.pipes.close()
