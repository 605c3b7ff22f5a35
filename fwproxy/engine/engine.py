"""What all sessions of one firewall share."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator

import attrs
import structlog

from fwproxy.clock import Deadlines
from fwproxy.config.config import Config, Limits
from fwproxy.datapath.pipes import PipePool
from fwproxy.datapath.poll import Poller
from fwproxy.engine.expected import ExpectedConnects, RedirectedPorts
from fwproxy.engine.kernel import KernelMode
from fwproxy.engine.quotas import Bursts, Quotas
from fwproxy.flags import SecondaryFlags
from fwproxy.ledger.file import LedgerFile
from fwproxy.ledger.ledger import Ledger
from fwproxy.log import get_logger
from fwproxy.names.resolver import Names, Resolver
from fwproxy.names.system import SystemNames, Threads
from fwproxy.policy.policy import Policy
from fwproxy.ports.pool import ANYWHERE, PortPool
from fwproxy.protocol import ProtocolDefinition
from fwproxy.shared.ports import SharedPorts


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
    ledger: Ledger
    quotas: Quotas
    bursts: Bursts
    kernel: KernelMode = attrs.field(factory=KernelMode)
    expected: ExpectedConnects = attrs.field(factory=ExpectedConnects)
    redirected: RedirectedPorts = attrs.field(factory=RedirectedPorts)
    password_checks: asyncio.Semaphore = attrs.field(factory=lambda: asyncio.Semaphore(1))
    address_flags: SecondaryFlags = SecondaryFlags.NONE
    session_numbers: Iterator[int] = attrs.field(factory=lambda: itertools.count(1))
    connection_numbers: Iterator[int] = attrs.field(factory=lambda: itertools.count(1))
    permission_numbers: Iterator[int] = attrs.field(factory=lambda: itertools.count(1))

    @classmethod
    def start(
        cls,
        config: Config,
        poller: Poller | None = None,
        choose: Callable[[int], int] = ANYWHERE,
    ) -> Engine:
        """Make the parts and put them on the running loop.

        Args:
            config: what they are to be like.
            poller: where the sockets come from; None is the system.
            choose: which port of the pool is looked at first (`PortPool`).

        Raises:
            ConfigError: the kernel data path is required, and this host cannot.
            OSError: the file of the ledger cannot be opened.
        """
        loop = asyncio.get_running_loop()
        log = get_logger().bind()
        ledger = Ledger(config.ledger.history, _ledger_file(config, loop, log))
        played = poller is not None
        deadlines = Deadlines(loop.time)
        poller = Poller(loop, deadlines=deadlines) if poller is None else poller
        deadlines.start(loop, poller.turn)
        engine = cls(
            loop=loop,
            config=config,
            policy=config.policy(),
            poller=poller,
            deadlines=deadlines,
            pipes=PipePool(config.datapath.max_pipes, config.datapath.pipe_size),
            ports=_port_pool(config, poller, choose),
            resolver=_resolver(config, deadlines, played=played),
            protocols={protocol.name: protocol for protocol in config.protocols},
            limits=config.limits,
            shared=SharedPorts(config.shared, config.limits.max_shared_redirections),
            log=log,
            password_checks=asyncio.Semaphore(config.limits.max_password_checks),
            ledger=ledger,
            quotas=Quotas(config.limits, lambda: deadlines.now()),  # noqa: PLW0108 - may be moved
            bursts=Bursts(lambda: deadlines.now()),  # noqa: PLW0108 - the same
            address_flags=config.secondary.address_flags,
        )
        try:
            if not played:  # or there is nothing of it that a kernel would see
                engine.kernel = KernelMode.start(config, engine.poller, deadlines, engine.log)
        except BaseException:
            engine.close()
            raise
        return engine

    def close(self) -> None:
        """Take the parts off the loop; no session may be left."""
        self.kernel.close()
        self.resolver.close()
        self.ledger.finish()
        self.ports.close()
        self.deadlines.stop()
        self.poller.close()
        self.pipes.close()


def _port_pool(config: Config, poller: Poller, choose: Callable[[int], int]) -> PortPool:
    return PortPool(
        config.secondary.ports,
        config.limits.max_reserved_ports,
        open_socket=poller.open_socket,
        choose=choose,
    )


def _resolver(config: Config, deadlines: Deadlines, *, played: bool) -> Resolver:
    limits = config.limits

    def now() -> float:
        return deadlines.now()  # tests replace it

    names: Names
    if played:
        names = SystemNames(now, limits.name_memory)
    elif config.resolver.kind == "dns":
        from fwproxy.names.stub import DnsNames  # noqa: PLC0415 - it needs an extra

        names = DnsNames(config.resolver, now)
    else:
        names = SystemNames(now, limits.name_memory, Threads(limits.max_resolutions))
    return Resolver(names, limits.max_resolutions, now, max_names=limits.max_names)


def _ledger_file(
    config: Config,
    loop: asyncio.AbstractEventLoop,
    log: structlog.typing.FilteringBoundLogger,
) -> LedgerFile | None:
    path = config.ledger.file
    if path is None:
        return None

    def report(lost: int, why: str) -> None:
        """Have it logged by the loop, unless that has come to its end."""
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(
                lambda: log.error("ledger lines lost", file=path, lines=lost, reason=why)
            )

    return LedgerFile(path, config.ledger.queue, report)
