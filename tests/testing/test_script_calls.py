"""The scripted session: what filters call, and the connections that the proxy makes."""

from __future__ import annotations

import asyncio
import errno

import pytest
from shouting import DATA, OWN, F, ShoutFilter, bind

from fwproxy import Endpoint, ListenerKind
from fwproxy.config.config import Limits
from fwproxy.errors import PolicyRulesDeniedError, QuotaError, TerminatingError
from fwproxy.kit.line_filter import LineFilter
from fwproxy.kit.primary_filter import PrimaryFilter
from fwproxy.policy.policy import Rule
from fwproxy.testing import PROXY_OUTSIDE, SERVER, Answer, Script

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
