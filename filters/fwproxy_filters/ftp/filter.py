"""The FTP filter: RFC 959, 1123, 2389, 2428, 3659 and 6384, through a proxy."""

from __future__ import annotations

from fwproxy import Filter, Firewall, Hooks, Session, SessionFilter, Verdict
from fwproxy.events import (
    AcceptedConnection,
    ConnectionTerminating,
    ConnectTcp,
    EstablishedConnection,
    Event,
)
from fwproxy_filters.ftp.channel import DataChannel
from fwproxy_filters.ftp.commands import Command
from fwproxy_filters.ftp.control import ControlFilter
from fwproxy_filters.ftp.gateway import GatewayLogin
from fwproxy_filters.ftp.replies import ReplyLine
from fwproxy_filters.ftp.settings import FtpSettings
from fwproxy_filters.ftp.setup import Work

_SHARE_OF_FILTER_TIMEOUT = 0.8
"""What a handler may wait for goes before the engine takes the handler for dead."""


class FtpFilter(Filter):
    """Opens exactly the data connections that FTP commands ask for."""

    name = "ftp"
    settings_class = FtpSettings

    def __init__(self, settings: FtpSettings | None = None) -> None:
        super().__init__(settings or FtpSettings())
        self.max_line_length = 0
        self.patience = 0.0

    def filter_init(self, firewall: Firewall) -> Hooks:
        """Hear of control connections, and of the end of data connections."""
        limits = firewall.config.limits
        self.max_line_length = limits.max_line_length
        self.patience = limits.filter_timeout * _SHARE_OF_FILTER_TIMEOUT
        # Whoever hears of the connects and accepts of data connections keeps them out of the
        # kernel; that they are established is heard in any case.
        associated = [ConnectionTerminating]
        return Hooks.on(ConnectTcp, AcceptedConnection, associated=associated)

    def attach_to_session(self, session: Session) -> SessionFilter:
        """Serve every session."""
        settings = session.filter_settings(self.name)
        return FtpSession(session, settings, self.max_line_length, self.patience)


class FtpSession(SessionFilter):
    """One FTP session: its control filter, and the way in which it got its server.

    Attributes:
        settings: for this session's listener.
        max_line_length: bytes in one command.
        patience: seconds that a handler of the control connection may wait for something.
    """

    def __init__(
        self, session: Session, settings: FtpSettings, max_line_length: int, patience: float
    ) -> None:
        super().__init__(session)
        self.settings = settings
        self.max_line_length = max_line_length
        self.patience = patience
        self._control: ControlFilter | None = None
        self._login: GatewayLogin | None = None
        self._open: set[DataChannel] = set()

    @property
    def has_open_data(self) -> bool:
        """Whether bytes flow on a data connection."""
        return bool(self._open)

    def firewall_event_handler(self, event: Event) -> Verdict | None:
        """Attach to the control connection; follow the data connections."""
        connection = event.connection
        if isinstance(connection.context, DataChannel):
            return self._follow(event, connection.context)
        if self._control is None and isinstance(event, AcceptedConnection | ConnectTcp):
            if isinstance(event, AcceptedConnection):
                self._login = GatewayLogin(self.settings)
            self._control = ControlFilter(self)
            connection.attach_data_filter(self._control)
        return None

    def _follow(self, event: Event, channel: DataChannel) -> Verdict | None:
        if isinstance(event, ConnectionTerminating):
            self._terminating(event, channel)
        elif channel.has_ended:  # withdrawn a moment ago
            return Verdict.DENY
        elif isinstance(event, EstablishedConnection):
            channel.established(event.connection)
            self._open.add(channel)
        return None

    def _terminating(self, event: ConnectionTerminating, channel: DataChannel) -> None:
        if not channel.has_ended:
            self._open.discard(channel)
            failed = event.failed or not channel.is_established
            channel.ended(event.reason if failed else None)
            if self._control is not None:
                self._control.channel_ended(channel)

    def detach(self) -> None:
        """Let the control filter go."""
        self._control = None
        self._login = None

    # The way in of a gateway, where the client names the server.

    def login(self, control: ControlFilter, command: Command) -> Work:
        """Handle a command that comes before there is a server."""
        if self._login is None:
            return None
        return self._login.command(control, command)

    def greeting(self, control: ControlFilter, line: ReplyLine) -> None:
        """Pass the server's greeting on, unless the client has been greeted already."""
        if self._login is None:
            control.to_client.send(line.raw)
        else:
            self._login.greeting(control, line)

    def reply_to_user(self, control: ControlFilter, line: ReplyLine) -> None:
        """Handle the reply to a USER whose password the client has said already."""
        if self._login is not None:
            self._login.reply_to_user(control, line)

    def server_command(self, command: Command) -> Command:
        """Return USER or ACCT as the server shall get it."""
        return command if self._login is None else self._login.server_command(command)
