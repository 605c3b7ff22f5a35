"""The scripted session: what a test can do with it, and what it notices by itself."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from fwproxy import (
    DataFilter,
    Endpoint,
    Filter,
    Firewall,
    Handled,
    Hooks,
    IpFilter,
    ListenerKind,
    ProtocolDefinition,
    SecondaryFlags,
    Session,
    SessionFilter,
    Transport,
    Verdict,
)
from fwproxy.config import Limits
from fwproxy.errors import (
    AddressInUseError,
    AddressNotAvailableError,
    BadContextError,
    ConfigError,
    PolicyRulesDeniedError,
    QuotaError,
    TerminatingError,
)
from fwproxy.events import ConnectTcp, Event
from fwproxy.kit.line_filter import LineFilter
from fwproxy.kit.primary_filter import PrimaryFilter
from fwproxy.policy import Rule
from fwproxy.testing import CLIENT, PROXY_INSIDE, PROXY_OUTSIDE, SERVER, Answer, Script

DATA = ProtocolDefinition("scripted-data")
OWN = Endpoint(CLIENT[4], 5000)
SERVER_DATA = Endpoint(SERVER[4], 7000)
F = SecondaryFlags


class Shout(DataFilter):
    """Makes capitals of what the client says, later if it ends with a question mark."""

    def data_from_client(self, data: bytes) -> Handled:
        if data == b"fail":
            raise ValueError("the client said so")
        if data.endswith(b"?"):
            return self._later(data)
        self.to_server.send(data.upper())
        return None

    async def _later(self, data: bytes) -> None:
        await asyncio.sleep(5)
        self.to_server.send(data.upper())


class ShoutFilter(PrimaryFilter):
    name = "shout"
    data_filter = Shout


def bind(script: Script, **settings: Any) -> Any:
    settings.setdefault("protocol", DATA)
    (connection,) = script.run(script.session.bind_for_client([OWN], **settings))
    return connection


def redirect(script: Script, **settings: Any) -> Any:
    settings.setdefault("protocol", DATA)
    return script.run(script.session.redirect_connections([SERVER_DATA], **settings))


# Bytes.


def test_bytes_pass_through_the_filter_and_are_there_when_the_call_returns() -> None:
    with Script(ShoutFilter) as script:
        script.client.send(b"hello", b" world")
        assert script.server.take() == b"HELLO WORLD"
        assert script.server.take() == b""
        script.server.send(b"hi")
        assert script.client.received == b"hi"
        assert script.client.take() == b"hi"


def test_without_a_filter_too() -> None:
    with Script() as script:
        script.client.send(b"hello")
        assert script.server.take() == b"hello"
        assert script.connection.data_path == "splice"


def test_ends_are_passed_on_one_by_one() -> None:
    with Script(ShoutFilter) as script:
        connection = script.connection
        script.client.end()
        assert script.server.has_ended
        assert not script.client.has_ended
        script.server.send(b"still here")
        assert script.client.take() == b"still here"
        script.server.end()
        assert script.client.has_ended
        assert connection.is_closed
        assert script.client.is_gone


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_breaks_the_other_side(who: str) -> None:
    with Script(ShoutFilter) as script:
        one, other = script.client, script.server
        if who == "server":
            one, other = other, one
        one.reset()
        assert other.is_reset
        assert not other.has_ended
        other.send(b"too late")
        other.end()
        other.reset()


def test_whoever_sends_to_a_closed_connection_is_reset() -> None:
    with Script(ShoutFilter) as script:
        script.connection.kill()
        script.client.is_reset = False
        script.client.send(b"anybody?")
        assert script.client.is_reset


def test_unread_bytes_make_the_close_a_reset() -> None:
    with Script(ShoutFilter) as script:
        script.client.send(b"when?", b"unread")
        script.connection.close("enough")
        assert script.client.is_reset
        assert script.server.has_ended
        assert not script.server.is_reset


def test_a_stalled_reader_holds_the_writer_up_and_nothing_is_lost() -> None:
    with Script(ShoutFilter, limits=Limits(max_buffer=16 * 1024)) as script:
        script.server.stall(room=10)
        for _ in range(20):
            script.client.send(b"x" * 4096)
        assert script.server.received == b"X" * 10
        assert script.connection.client_bytes < 20 * 4096
        script.server.read_on()
        assert script.server.take() == b"X" * 20 * 4096


# Time.


def test_time_passes_only_when_the_test_says_so() -> None:
    with Script(ShoutFilter) as script:
        script.client.send(b"when?")
        assert script.server.take() == b""
        script.advance(4.9)
        assert script.server.take() == b""
        script.client.send(b"!")
        script.advance(0.1)
        assert script.server.take() == b"WHEN?!"


def test_a_handler_that_takes_too_long_ends_its_connection() -> None:
    with Script(ShoutFilter, limits=Limits(filter_timeout=3)) as script:
        script.client.send(b"when?")
        script.advance(4)
        assert script.client.is_reset
        (failure,) = script.take_failures()
        assert isinstance(failure, TimeoutError)


def test_an_idle_connection_ends() -> None:
    with Script(ShoutFilter) as script:
        script.advance(Limits().idle_timeout + 1)
        assert script.client.is_reset


def test_permissions_expire() -> None:
    with Script() as script:
        redirection = redirect(script, flags=F.TIMEOUT)
        script.advance(59)
        assert len(script.permissions) == 1
        script.advance(2)
        assert not script.permissions
        assert redirection.actions[0].close_reason == "expired"
        with pytest.raises(ConnectionRefusedError):
            script.connect(redirection.internal_address)


# Secondary connections.


def test_the_server_comes_to_a_bound_port() -> None:
    with Script() as script:
        connection = bind(script)
        assert connection.proxy_address == Endpoint(PROXY_OUTSIDE[4], 40000)
        assert script.secondaries == [connection]
        server = script.connect(connection.proxy_address, SERVER[4])
        client = script.peer(OWN)
        assert client.remote.host == PROXY_INSIDE[4]
        server.send(b"there")
        client.send(b"back")
        assert (client.take(), server.take()) == (b"there", b"back")
        client.end()
        server.end()
        assert connection.is_closed
        assert not script.secondaries


def test_the_client_comes_to_a_redirected_port() -> None:
    with Script() as script:
        redirection = redirect(script)
        assert redirection.internal_address == Endpoint(PROXY_INSIDE[4], 40000)
        client = script.connect(redirection.internal_address)
        server = script.peer(SERVER_DATA)
        assert server.remote.host == PROXY_OUTSIDE[4]
        client.send(b"there")
        assert server.take() == b"there"


def test_ports_are_counted_up() -> None:
    with Script() as script:
        assert [bind(script).proxy_address.port for _ in range(3)] == [40000, 40001, 40002]


def test_a_stranger_is_cut_off() -> None:
    with Script() as script:
        connection = bind(script, ip_filter=IpFilter.only(SERVER[4]))
        assert script.connect(connection.proxy_address, "192.0.2.66").is_reset
        assert not connection.is_closed


def test_nobody_listens_where_nothing_is_permitted() -> None:
    with Script() as script, pytest.raises(ConnectionRefusedError):
        script.connect(Endpoint(PROXY_OUTSIDE[4], 40000))


def test_addresses_and_ports_are_refused_as_the_system_would() -> None:
    with Script() as script:
        taken = bind(script).proxy_address
        with pytest.raises(AddressInUseError):
            bind(script, proxy_address=taken)
        with pytest.raises(AddressNotAvailableError):
            bind(script, proxy_address=Endpoint("203.0.113.1"))


def test_ipv6_and_the_two_together() -> None:
    with Script(ShoutFilter, client=CLIENT[6], server=f"[{SERVER[6]}]:2000") as script:
        script.client.send(b"six")
        assert script.server.take() == b"SIX"
        (connection,) = script.run(
            script.session.bind_for_client([Endpoint(CLIENT[6], 5000)], protocol=DATA)
        )
        assert connection.proxy_address == Endpoint(PROXY_OUTSIDE[6], 40000)
    with Script(ShoutFilter, client=CLIENT[6]) as script:
        script.client.send(b"four")
        assert script.server.take() == b"FOUR"


def test_datagrams() -> None:
    with Script() as script:
        connection = bind(
            script, transport=Transport.UDP, flags=F.BIDIRECTIONAL | F.INCREASE_RECEIVE_BUFFER
        )
        server, stranger = script.datagrams(SERVER_DATA), script.datagrams(Endpoint("192.0.2.7", 9))
        client = script.datagrams(OWN)
        server.send(b"one", connection.proxy_address)
        stranger.send(b"two", connection.proxy_address)
        ((data, source),) = client.take()
        assert data == b"one"
        client.send(b"reply", source)
        assert server.take() == [(b"reply", connection.proxy_address)]
        assert stranger.take() == []
        client.send(b"nobody", Endpoint(PROXY_INSIDE[4], 9))


# Calls.


class Asking(LineFilter):
    """Asks for a port at each line and says what has come of it."""

    async def line_from_client(self, line: bytes) -> bytes | None:
        try:
            (made,) = await self.connection.session.bind_for_client([OWN], protocol=DATA)
        except PolicyRulesDeniedError as error:
            return str(error).encode()
        return str(made.proxy_address).encode()


class AskingFilter(PrimaryFilter):
    name = "asking"
    data_filter = Asking


def test_calls_are_written_down() -> None:
    with Script(AskingFilter) as script:
        script.client.send(b"please\r\n")
        (call,) = script.calls_of("bind_for_client")
        assert call.subject is script.session
        assert call["client_addresses"] == [OWN]
        assert call["flags"] is F.NONE
        assert call.is_done
        assert call.result == script.secondaries
        assert [each.name for each in script.calls] == ["attach_data_filter", "bind_for_client"]
        assert script.calls[0].subject is script.connection


def test_calls_are_refused_where_the_test_wants_it() -> None:
    with Script(AskingFilter) as script:
        script.refuse("bind_for_client", PolicyRulesDeniedError("not today"))
        script.client.send(b"please\r\n")
        assert script.server.take() == b"not today\r\n"
        assert not script.permissions
        assert isinstance(script.calls[-1].error, PolicyRulesDeniedError)
        script.refuse("bind_for_client", None)
        script.client.send(b"please\r\n")
        assert script.server.take() == b"198.51.100.1:40000\r\n"


def test_calls_wait_where_the_test_wants_it() -> None:
    with Script(AskingFilter) as script:
        script.hold("bind_for_client")
        script.client.send(b"please\r\n")
        assert not script.calls[-1].is_done
        assert not script.permissions
        script.let_go()
        assert script.calls[-1].is_done
        assert script.server.take() == b"198.51.100.1:40000\r\n"


def test_a_session_that_ends_while_a_call_waits() -> None:
    with Script(AskingFilter) as script:
        script.hold("bind_for_client")
        script.client.send(b"please\r\n")
        script.connection.kill()
        script.let_go()
        (call,) = script.calls_of("bind_for_client")
        assert isinstance(call.error, asyncio.CancelledError)
        with pytest.raises(LookupError):
            _ = script.connection
        with pytest.raises(TerminatingError):
            bind(script)


def test_only_calls_that_there_are() -> None:
    with Script() as script:
        with pytest.raises(ValueError, match="bind_for_client"):
            script.refuse("bind_for_clients", QuotaError("no"))
        with pytest.raises(ValueError, match="bind_for_client"):
            script.hold("binds")


def test_the_real_limits_hold() -> None:
    with Script(limits=Limits(max_permissions_per_session=1)) as script:
        bind(script)
        with pytest.raises(QuotaError, match="max_permissions_per_session"):
            bind(script)


def test_the_real_rules_hold() -> None:
    with Script(rules=[Rule(allow=False)]) as script:
        assert script.client.is_reset
        assert any("not allowed" in str(line.get("reason")) for line in script.log)


# Connections that the proxy makes.


def test_a_server_that_refuses() -> None:
    with Script(answer=Answer.REFUSE) as script:
        assert script.client.is_reset
        with pytest.raises(LookupError, match=r"192\.0\.2\.1:2000"):
            _ = script.server
        assert script.outcome().server_left == "absent"


def test_a_server_that_the_test_answers_for() -> None:
    with Script(answer=Answer.SILENCE) as script:
        script.client.send(b"early")
        (dialled,) = script.dials
        assert dialled.target == Endpoint(SERVER[4], 2000)
        assert dialled.source.host == PROXY_OUTSIDE[4]
        server = dialled.accept()
        assert server is script.server
        assert server.take() == b"early"
        assert not script.dials


def test_a_server_that_cannot_be_reached() -> None:
    with Script(answer=Answer.SILENCE) as script:
        script.dials[0].refuse(errno.EHOSTUNREACH)
        assert script.client.is_reset
        assert "No route to host" in script.log[-1]["reason"]


def test_a_server_that_does_not_answer_in_time() -> None:
    with Script(answer=Answer.SILENCE) as script:
        script.advance(Limits().connect_timeout + 1)
        assert script.client.is_reset
        assert not script.dials


def test_a_server_by_name() -> None:
    hosts = {"depot.example": ["192.0.2.5", "192.0.2.6"]}
    down = {Endpoint("192.0.2.5", 2000)}
    with Script(
        server="depot.example:2000",
        hosts=hosts,
        answer=lambda target: Answer.REFUSE if target in down else Answer.ACCEPT,
    ) as script:
        assert script.server.address == Endpoint("192.0.2.6", 2000)
        found = script.run(script.session.get_host_by_name("depot.example"))
        assert [address.host for address in found] == ["192.0.2.5", "192.0.2.6"]
        assert script.run(script.session.get_host_by_addr("192.0.2.6")) == "depot.example"
    with Script(server="nowhere.example:2000") as script:
        assert script.client.is_reset


class Naming(LineFilter):
    """The client's first line names the server."""

    async def line_from_client(self, line: bytes) -> bytes | None:
        await self.connection.connect(Endpoint.parse(line.decode()))
        return None


class NamingFilter(PrimaryFilter):
    name = "naming"
    data_filter = Naming


def test_a_gateway() -> None:
    with Script(NamingFilter, kind=ListenerKind.GATEWAY) as script:
        assert script.outcome().server_left == "absent"
        script.client.send(b"192.0.2.1:2000\r\n")
        script.server.send(b"welcome\n")
        assert script.client.take() == b"welcome\n"


def test_several_clients() -> None:
    with Script(ShoutFilter) as script:
        first, session = script.client, script.session
        second = script.connect_client("10.0.0.9")
        assert script.client is second
        assert script.session is not session
        assert script.session.client_address.host == "10.0.0.9"
        first.send(b"one")
        second.send(b"two")
        assert script.server.take() == b"TWO"


def test_a_client_that_was_not_let_in() -> None:
    with Script(connect=False, limits=Limits(max_sessions_per_client=1)) as script:
        with pytest.raises(LookupError):
            _ = script.session
        script.connect_client()
        assert script.connect_client().is_reset


# Events.


class Listening(SessionFilter):
    def firewall_event_handler(self, event: Event) -> Any:
        if isinstance(event, ConnectTcp) and event.server.port == 666:
            return self._slowly_denied()
        if isinstance(event, ConnectTcp) and event.server.port == 667:
            event.connection.deny()
        if isinstance(event, ConnectTcp) and event.server.port == 668:
            raise OSError("no idea")
        return Verdict.ALLOW

    async def _slowly_denied(self) -> Verdict:
        await asyncio.sleep(0)
        return Verdict.DENY


class ListeningFilter(Filter):
    name = "listening"

    def filter_init(self, firewall: Firewall) -> Hooks:
        return Hooks.on(ConnectTcp)

    def attach_to_session(self, session: Session) -> SessionFilter:
        return Listening(session)


def test_an_event_of_ones_own() -> None:
    with Script(ListeningFilter) as script:
        connection = script.connection
        event = ConnectTcp(connection, Endpoint(SERVER[4], 80), script.session.protocol)
        assert script.tell(event) is Verdict.ALLOW
        event = ConnectTcp(connection, Endpoint(SERVER[4], 666), script.session.protocol)
        assert script.tell(event) is Verdict.DENY
        event = ConnectTcp(connection, Endpoint(SERVER[4], 667), script.session.protocol)
        script.tell(event)
        assert [call.name for call in script.calls] == ["deny"]
        with pytest.raises(BadContextError):
            connection.deny()


def test_a_handler_of_events_that_raises() -> None:
    with Script(ListeningFilter, server=f"{SERVER[4]}:668") as script:
        assert script.client.is_reset
        (failure,) = script.take_failures()
        assert isinstance(failure, OSError)


# What it notices.


def test_a_failure_that_nobody_looked_at_is_an_error() -> None:
    script = Script(ShoutFilter)
    script.client.send(b"fail")
    assert script.client.is_reset
    with pytest.raises(AssertionError) as caught:
        script.close()
    assert isinstance(caught.value.__cause__, ValueError)
    script.close()


def test_a_failure_of_the_test_itself_is_not_hidden() -> None:
    with pytest.raises(KeyError), Script(ShoutFilter) as script:  # noqa: PT012
        script.client.send(b"fail")
        raise KeyError


class Forgetful(DataFilter):
    def data_from_client(self, data: bytes) -> Handled:
        loop = asyncio.get_running_loop()
        self.task = loop.create_task(asyncio.sleep(1e9))
        return None


class ForgetfulFilter(PrimaryFilter):
    name = "forgetful"
    data_filter = Forgetful


def test_a_task_that_is_left_behind_is_an_error() -> None:
    script = Script(ForgetfulFilter)
    script.client.send(b"x")
    (task,) = asyncio.all_tasks(script.loop)
    with pytest.raises(AssertionError, match="tasks"):
        script.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    task.get_coro().close()  # type: ignore[union-attr]


class Restless(DataFilter):
    def data_from_client(self, data: bytes) -> Handled:
        loop = asyncio.get_running_loop()

        def again() -> None:
            if not self.connection.is_closed:
                loop.call_soon(again)

        again()
        return None


class RestlessFilter(PrimaryFilter):
    name = "restless"
    data_filter = Restless


def test_a_filter_that_never_rests_is_an_error() -> None:
    with Script(RestlessFilter) as script:
        with pytest.raises(AssertionError, match="busy"):
            script.client.send(b"x")
        script.connection.kill()


def test_a_configuration_that_is_none() -> None:
    with pytest.raises(ConfigError):
        Script(settings={"nobody": {}}, protocol=ProtocolDefinition("x", secondary=("y",)))
    with pytest.raises(ConfigError):
        Script(ShoutFilter, settings={"shout": {"loud": True}})


async def test_it_says_so_inside_another_loop() -> None:
    with pytest.raises(RuntimeError, match="plain function"):
        Script()


def test_a_coroutine_that_waits_for_nothing() -> None:
    with Script() as script, pytest.raises(AssertionError, match="does not happen by itself"):
        script.run(asyncio.sleep(1))


def test_the_log_is_kept_and_can_be_looked_at_for_secrets() -> None:
    with Script(ShoutFilter) as script:
        script.client.send(b"PASS secret")
        script.client.reset()
        assert script.log
        assert "secret" not in str(script.log)
