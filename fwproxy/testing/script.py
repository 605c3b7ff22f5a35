"""One session of a filter, on a network, a clock and a loop that the test plays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import attrs
import structlog

from fwproxy.address import Destination, Endpoint, parse_destination
from fwproxy.config.listeners import ListenerKind
from fwproxy.connection.connection import Connection
from fwproxy.dispatch import dispatch
from fwproxy.errors import FwproxyError
from fwproxy.events import Event
from fwproxy.filter import Filter
from fwproxy.flags import Verdict
from fwproxy.ledger.ledger import LedgerEntry
from fwproxy.protocol import ProtocolDefinition
from fwproxy.session.session import Session
from fwproxy.testing.loop import ManualLoop, check_no_loop_runs
from fwproxy.testing.network import Answer, Arrange, Dialled, Network
from fwproxy.testing.outcome import Outcome, left
from fwproxy.testing.peers import DatagramPeer, Peer
from fwproxy.testing.recording import Call, Recorder, RecordingEngine
from fwproxy.testing.scripted_firewall import (
    CLIENT,
    LISTENER,
    PROXY_INSIDE,
    PROXY_OUTSIDE,
    SERVER,
    ScriptedFirewall,
    script_config,
)

_T = TypeVar("_T")


class Script:
    r"""One client, one server, and the filters between them, in a real firewall without sockets.

    Everything but the network, the clock and the event loop is what runs in production: the same
    policy, limits, events, time-outs and errors. What the two ends do is handled before the call
    returns, coroutines included; nothing waits and nothing sleeps. Use it in a plain function::

        with Script(ParcelFilter, protocol=PARCEL) as script:
            script.client.send(b"FETCH parcel\n")
            assert script.server.take() == b"FETCH parcel\n"

    At the end everything is closed, and it is an error if a filter has raised and the test has not
    looked at it (`take_failures`), or if anything is left behind.

    Args:
        filters: the filter classes, in call order.
        protocol: what they are for; the default is one that is called `scripted`.
        protocols: further definitions, such as those of secondary connections.
        client: the client's address.
        server: the server's, with its port, or its name, which is looked up in `hosts`.
        kind: the listener's; with `GATEWAY` a filter has to call `Connection.connect`.
        answer: what happens to the connections that the proxy makes, or a function that tells.
        connect: whether the client connects at once.
        users: the file of those who may log in; with it, clients must (`Session.log_in`).
        settings: the settings of each filter by its name.
        hosts: the addresses of host names.
        rest: what else a `Config` has: `limits`, `networks`, `relations`, `rules`, `secondary` ...

    Raises:
        RuntimeError: a loop runs in this thread.
        ConfigError: the settings do not fit.

    Attributes:
        loop: the event loop.
        network: what the proxy believes to be the network.
        firewall: the firewall.
        client: the client's end, from `connect_client` on.
        answer: as given; may be changed.
        hosts: the addresses of host names.
    """

    client: Peer

    def __init__(
        self,
        *filters: type[Filter],
        protocol: ProtocolDefinition | None = None,
        protocols: Sequence[ProtocolDefinition] = (),
        client: str = CLIENT[4],
        server: str = f"{SERVER[4]}:2000",
        kind: ListenerKind = ListenerKind.FORWARD,
        answer: Answer | Callable[[Endpoint], Answer] = Answer.ACCEPT,
        connect: bool = True,
        users: str | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        hosts: Mapping[str, Sequence[str]] | None = None,
        **rest: Any,
    ) -> None:
        check_no_loop_runs()
        self.answer = answer
        self._client_address = Endpoint(client)
        names = tuple(each.name for each in filters)
        protocol = attrs.evolve(protocol or ProtocolDefinition(LISTENER), filters=names)
        upstream = parse_destination(server) if kind is ListenerKind.FORWARD else None
        self._server: Destination = parse_destination(server)
        config = script_config(
            self._inside, protocol, protocols, kind, upstream, users, settings, rest
        )
        self.loop = ManualLoop()
        self.loop.hosts.update({name: tuple(found) for name, found in (hosts or {}).items()})
        self.hosts = self.loop.hosts
        proxy = {*PROXY_INSIDE.values(), *PROXY_OUTSIDE.values()}
        self.network = Network(self.loop, proxy, self._route)
        self.network.how = self._answer_to
        self._sessions: list[Session] = []
        self._failures_seen = 0
        self._is_closed = False
        try:
            self.firewall = ScriptedFirewall(config, filters, self.network)
            self.loop.run(self.firewall.start())
            if connect:
                self.connect_client()
        except BaseException:
            self.loop.close()
            raise

    @property
    def _inside(self) -> Endpoint:
        return Endpoint(PROXY_INSIDE[self._client_address.version], 1)

    def _answer_to(self, target: Endpoint) -> Answer:
        return self.answer if isinstance(self.answer, Answer) else self.answer(target)

    def _route(self, target: Endpoint) -> str:
        inside = target.host == self._client_address.host
        return (PROXY_INSIDE if inside else PROXY_OUTSIDE)[target.version]

    def connect_client(self, client: str | None = None) -> Peer:
        """Let the client, or another one, come to the listener; `session` is its session then."""
        address = self._client_address if client is None else Endpoint(client)
        before = set(self.firewall.sessions)
        self.client = self.network.connect(self.firewall.listeners[LISTENER].address, address)
        self._sessions += set(self.firewall.sessions) - before
        return self.client

    # What there is.

    @property
    def session(self) -> Session:
        """The last client's session."""
        if not self._sessions:
            raise LookupError("no client was let in: see `log`")
        return self._sessions[-1]

    @property
    def connection(self) -> Connection:
        """Its primary connection."""
        primary = self.session.primary
        if primary is None:
            raise LookupError("the session has ended: see `log`")
        return primary

    @property
    def server(self) -> Peer:
        """The server's end; the last one if there were several."""
        wanted = self._server
        for address, peer in reversed(self.network.peers.items()):
            if address == wanted or (
                not isinstance(wanted, Endpoint) and address.port == wanted.port
            ):
                return peer
        raise LookupError(f"{wanted} has not been connected to: see `log` and `dials`")

    @property
    def _recorder(self) -> Recorder:
        return cast(RecordingEngine, self.firewall.engine).recorder

    @property
    def calls(self) -> list[Call]:
        """What filters have called, in this order."""
        return self._recorder.calls

    def calls_of(self, name: str) -> list[Call]:
        """Return the calls of one method."""
        return [call for call in self.calls if call.name == name]

    @property
    def dials(self) -> list[Dialled]:
        """The connections of the proxy that have not been answered."""
        return self.network.dials

    @property
    def permissions(self) -> list[LedgerEntry]:
        """What is permitted now."""
        return list(self.firewall.ledger)

    @property
    def secondaries(self) -> list[Connection]:
        """The session's secondary connections, oldest first, bound ones included."""
        found = (each for each in self.session.connections if each.is_secondary)
        return sorted(found, key=lambda connection: connection.id)

    @property
    def log(self) -> list[structlog.typing.EventDict]:
        """Every line that the engine has logged, from debug on."""
        return self.firewall.log

    @property
    def failures(self) -> list[BaseException]:
        """What filters, or the engine itself, have raised."""
        logged = [line["exc_info"] for line in self.log if line.get("exc_info")]
        return [*(each for each in logged if isinstance(each, BaseException)), *self.loop.errors]

    def take_failures(self) -> list[BaseException]:
        """Return the failures since the last call: the test expects them."""
        failures = self.failures[self._failures_seen :]
        self._failures_seen += len(failures)
        return failures

    def outcome(self) -> Outcome:
        """Return what has come of it so far, as a value."""
        try:
            server: Peer | None = self.server
        except LookupError:
            server = None
        return Outcome(
            self.client.received,
            b"" if server is None else server.received,
            left(self.client),
            "absent" if server is None else left(server),
            tuple(call.summary for call in self.calls),
            tuple(f"{each.proxy_address} to {each.target}" for each in self.permissions),
        )

    # What the test does.

    def connect(self, target: Endpoint, source: str | Endpoint | None = None) -> Peer:
        """Come to a port of the proxy, as the client unless another *source* is given.

        Raises:
            ConnectionRefusedError: nobody listens there.
        """
        host = self._client_address if source is None else source
        return self.network.connect(target, Endpoint(host) if isinstance(host, str) else host)

    def peer(self, address: Endpoint) -> Peer:
        """Return the end that the proxy has connected to at an address, the last one."""
        return self.network.peers[address]

    def at_once(self) -> AbstractContextManager[None]:
        """Let the proxy notice all that is done in the block together, at the end of the block.

        In which order it is told, `arrange` says.
        """
        return self.loop.held()

    @property
    def arrange(self) -> Arrange:
        """Which of the sockets the proxy is told of first when something happens to several.

        Given the descriptors in the order in which something has happened, it returns those that
        are told now, in their order; the others wait for the next time.
        """
        return self.network.epoll.arrange

    @arrange.setter
    def arrange(self, arrange: Arrange) -> None:
        self.network.epoll.arrange = arrange

    def datagrams(self, address: Endpoint) -> DatagramPeer:
        """Return who sends and receives datagrams at an address, from now on."""
        return self.network.datagram_peer(address)

    def advance(self, seconds: float) -> None:
        """Let time pass; what becomes due happens."""
        self.loop.advance(seconds)

    def settle(self) -> None:
        """Let everything happen that can happen now; after calls of one's own into the engine."""
        self.loop.settle()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine, such as a call of the session, to its end."""
        return self.loop.run(work)

    def tell(self, event: Event) -> Verdict:
        """Tell the filters an event, and return their verdict."""

        async def told() -> Verdict:
            event.connection.handling(event)
            try:
                answer = dispatch(event.connection.session, event)
                return answer if isinstance(answer, Verdict) else await answer
            finally:
                event.connection.handling(None)

        return self.run(told())

    def refuse(self, call: str, error: FwproxyError | None) -> None:
        """Let the filters' calls of that name fail, from now on; None ends that."""
        self._recorder.refuse(call, error)

    def hold(self, *calls: str) -> None:
        """Let the filters' calls of these names wait until `let_go`."""
        self._recorder.hold(*calls)

    def let_go(self) -> None:
        """Let the calls that wait go on."""
        self._recorder.let_go()
        self.settle()

    # The end.

    def close(self) -> None:
        """End everything.

        Raises:
            AssertionError: something is left behind, or a filter has raised and nobody looked.
        """
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._end()
            failures = self.take_failures()
        finally:
            self.loop.close()
        if failures:
            raise AssertionError("a filter has raised (see take_failures)") from failures[0]

    def _end(self) -> None:
        engine = self.firewall.engine
        self.loop.run(self.firewall.stop(0))
        self.settle()
        left = {
            "permissions": len(engine.ledger),
            "ports": engine.ports.in_use,
            "sockets": len(self.network),
            "tasks": len(asyncio.all_tasks(self.loop)),
        }
        found = {name: count for name, count in left.items() if count}
        if found:
            raise AssertionError(f"left behind: {found}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        elif not self._is_closed:  # the test's own failure counts
            self._is_closed = True
            try:
                self._end()
            finally:
                self.loop.close()
