"""The FTP filter in a scripted session: what the two ends say, and what becomes of data ports.

Whatever the filter opens is in `Script.open` until it is used up, withdrawn or killed; what is
left at the end must have been withdrawn by the filter itself, and not only with its session.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from fwproxy import (
    Connection,
    ConnectionFlags,
    Endpoint,
    FirewallAction,
    IpFilter,
    ListenerKind,
    SecondaryFlags,
)
from fwproxy import testing as t
from fwproxy.config.config import Limits
from fwproxy.connection.connection import ConnectionState
from fwproxy.errors import FwproxyError
from fwproxy.protocol import FTP, FTP_DATA
from fwproxy_filters.ftp import FtpFilter
from fwproxy_filters.ftp.channel import DataChannel
from fwproxy_filters.ftp.control import ControlFilter
from fwproxy_filters.ftp.filter import _SHARE_OF_FILTER_TIMEOUT

CLIENT_V4, CLIENT_V6 = t.CLIENT[4], t.CLIENT[6]
SERVER_V4, SERVER_V6 = t.SERVER[4], t.SERVER[6]
FIRST_PORT = 40000
GATEWAY_SECRETS = {"anna": "open-sesame", "bert": "12345"}
"""The users of a gateway in a script, and their passwords (the fixture `gateway_users`)."""
OPENING = {
    "bind": "bind_for_client",
    "dial": "connect",
    "redirect": "redirect_connections",
    "connect": "connect_for_client",
}
"""Short names of the calls that open connections."""


def _answer(target: Endpoint) -> t.Answer:
    """Let FTP servers be there at once, and data ports when the test says so."""
    return t.Answer.ACCEPT if target.port == 21 else t.Answer.SILENCE


class Data:
    """One data connection, as the test brings it about."""

    def __init__(self, script: Script, connection: Connection) -> None:
        self._script = script
        self.connection = connection
        self.peers: list[t.Peer] = []

    @property
    def is_closed(self) -> bool:
        return self.connection.is_closed

    def comes(self, host: str, address: Endpoint) -> None:
        """Somebody comes to a port of it."""
        self.peers.append(self._script.play.connect(address, host))

    def server_comes(self) -> None:
        assert self.connection.proxy_address is not None
        self.comes(self._script.server_host, self.connection.proxy_address)

    def established(self) -> None:
        """Whoever the proxy connects to answers."""
        while self._script.play.dials:
            self.peers.append(self._script.play.dials[0].accept())
        assert self.connection.state is ConnectionState.ESTABLISHED

    def fail(self) -> None:
        """It cannot be made, or breaks."""
        if self._script.play.dials:
            self._script.play.dials[0].refuse()
        else:
            self.peers[-1].reset()
        assert self.is_closed

    def end(self) -> None:
        """Both sides end it."""
        for peer in self.peers:
            peer.end()
        assert self.is_closed


class Script:
    """A control connection, its filter and its data connections.

    Attributes:
        play: the scripted session.
    """

    def __init__(
        self,
        client: str = CLIENT_V4,
        server: str = SERVER_V4,
        *,
        gateway: bool = False,
        greeted: bool = True,
        patience: float = 10.0,
        max_buffer: int = Limits().max_buffer,
        hosts: dict[str, list[str]] | None = None,
        users: str | None = None,
        **settings: Any,
    ) -> None:
        self.server_host = server
        self.patience = patience
        self.play = t.Script(
            FtpFilter,
            protocol=FTP,
            client=client,
            server=str(Endpoint(server, 21)),
            kind=ListenerKind.GATEWAY if gateway else ListenerKind.FORWARD,
            answer=_answer,
            users=users,
            settings={"ftp": settings},
            hosts=hosts,
            limits=Limits(
                filter_timeout=patience / _SHARE_OF_FILTER_TIMEOUT, max_buffer=max_buffer
            ),
        )
        self.connection = self.play.connection
        filters = self.connection.data_filters or []
        self.control = next(
            each.data_filter for each in filters if isinstance(each.data_filter, ControlFilter)
        )
        self._data: dict[Connection, Data] = {}
        if greeted and not gateway:
            self.server(b"220 Ready\r\n")
            assert self.heard() == b"220 Ready\r\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.end()
            reasons = {action.close_reason for action in self.actions}
            assert "its session has ended" not in reasons, "something was left open"
        self.play.__exit__(kind, error, trace)

    # What the two ends say.

    def client(self, *pieces: bytes) -> Self:
        self.play.client.send(*pieces)
        return self

    def server(self, *pieces: bytes) -> Self:
        self.play.server.send(*pieces)
        return self

    def client_ends(self) -> None:
        self.play.client.end()

    def server_ends(self) -> None:
        self.play.server.end()

    def heard(self) -> bytes:
        """Return what the client has got since the last call."""
        return self.play.client.take()

    def got(self) -> bytes:
        """Return what the server has got since the last call."""
        return self.play.server.take() if self.has_server else b""

    def ask(self, line: bytes, reply: bytes) -> bytes:
        """Let the client say *line* and the server *reply*; return what the client hears."""
        self.client(line + b"\r\n").server(reply)
        return self.heard()

    @property
    def has_server(self) -> bool:
        return self.connection.server_address is not None

    @property
    def connects(self) -> list[Endpoint]:
        """The servers that the gateway's client has been connected to, or should have been."""
        return [call["server"] for call in self.play.calls_of("connect")]

    @property
    def is_waiting(self) -> bool:
        """Whether a handler waits for something."""
        return any(self.connection._relay.busy)  # type: ignore[union-attr]

    @property
    def has_hung_up(self) -> bool:
        return self.play.client.has_ended and (not self.has_server or self.play.server.has_ended)

    @property
    def is_in_step(self) -> bool:
        """Whether a reply of the filter's own is sent at once: no reply is waited for."""
        self.client(b"LPSV\r\n")
        return self.heard() == b"502 LPSV cannot work through a proxy\r\n"

    def end(self) -> None:
        """The control connection breaks."""
        self.play.client.reset()

    def wait(self) -> None:
        """Let so much time pass that handlers lose their patience."""
        self.play.advance(self.patience + 1)

    # What is opened.

    @property
    def calls(self) -> list[tuple[Any, ...]]:
        """What was asked of the session, and for which addresses."""
        return [
            each
            for call in self.play.calls
            for name, method in OPENING.items()
            if call.name == method and name != "dial"
            for each in [(name, *self._addresses(call))]
        ]

    def _addresses(self, call: t.Call) -> list[Any]:
        if call.name == "connect_for_client":
            return [call["client_address"], call["server_address"]]
        assert SecondaryFlags.TIMEOUT in call["flags"]
        if call.name == "bind_for_client":
            assert call["ip_filter"] == IpFilter.only(self.server_host)
            return list(call["client_addresses"])
        (target,) = call["targets"]
        return [target.proxy_address if isinstance(target, Connection) else target]

    @property
    def actions(self) -> list[FirewallAction]:
        """The permissions that there have been, in their order."""
        actions = []
        for call in self.play.calls:
            if call.name == "redirect_connections" and call.result:
                actions.extend(call.result.actions)
            elif call.name == "bind_for_client" and call.result:
                actions.extend(each.permission for each in call.result)
        return actions

    @property
    def open(self) -> set[Any]:
        """Permissions, and data connections that are not made yet."""
        unmade = {
            each for each in self._secondaries if each.state is not ConnectionState.ESTABLISHED
        }
        theirs = {each.permission for each in unmade if each.proxy_address is not None}
        return unmade | {each for each in self.actions if each.is_active and each not in theirs}

    @property
    def _secondaries(self) -> list[Connection]:
        return self.play.secondaries

    @property
    def dials(self) -> list[t.Dialled]:
        """The data connections that the proxy makes and nobody has answered."""
        return self.play.dials

    @property
    def data(self) -> list[Data]:
        """The data connections that there have been, as far as anybody has looked."""
        for connection in self._secondaries:
            if connection not in self._data:
                self._data[connection] = Data(self, connection)
        return list(self._data.values())

    def come(self) -> Data:
        """The client comes to the port that it was told last."""
        call = self.play.calls_of("redirect_connections")[-1]
        peer = self.play.connect(call.result.internal_address)
        (target,) = call["targets"]
        joined = [each for each in self.data if each.connection is target]
        (data,) = joined or self.data[-1:]
        data.peers.append(peer)
        return data

    def late(self, channel: DataChannel) -> Connection:
        """Return a connection that comes for a data channel after its end."""
        session = self.play.session
        return Connection(
            session,
            FTP_DATA,
            client_address=session.client_address,
            flags=ConnectionFlags.SECONDARY,
            context=channel,
        )

    def refuse(self, name: str, error: FwproxyError | None) -> None:
        """Let a call fail, or no longer."""
        self.play.refuse(OPENING[name], error)

    def hold(self) -> None:
        """Let calls wait until `let_go`."""
        self.play.hold(*OPENING.values())

    def let_go(self) -> None:
        self.play.let_go()
