"""The scripted session: events of a filter's own, and what it notices by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from shouting import ShoutFilter

from fwproxy import (
    DataFilter,
    Endpoint,
    Filter,
    Firewall,
    Handled,
    Hooks,
    ProtocolDefinition,
    Session,
    SessionFilter,
    Verdict,
)
from fwproxy.errors import BadContextError, ConfigError
from fwproxy.events import ConnectTcp, Event
from fwproxy.kit.primary_filter import PrimaryFilter
from fwproxy.testing import SERVER, Script

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
