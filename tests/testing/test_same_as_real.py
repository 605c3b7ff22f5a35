"""The same filter and the same conversation, scripted and on loopback: nothing may differ.

Addresses and ports are not the same, so both sides are compared with names in their places.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
import uvloop
from rig import (
    HOST,
    OTHER_HOST,
    THIRD_HOST,
    Peer,
    Upstream,
    closing,
    eventually,
    free_ports,
    leftovers,
)

from fwproxy import (
    Config,
    Connection,
    Endpoint,
    Filter,
    Firewall,
    Hooks,
    ListenerConfig,
    ProtocolDefinition,
    SecondaryFlags,
    Session,
    SessionFilter,
    Transport,
)
from fwproxy.config.config import Limits
from fwproxy.engine.engine import Engine
from fwproxy.errors import CallError
from fwproxy.events import (
    AcceptedConnection,
    BindTcp,
    ConnectionTerminating,
    ConnectTcp,
    Event,
    Listen,
)
from fwproxy.kit.line_filter import LineFilter
from fwproxy.protocol import BUILT_IN
from fwproxy.testing import CLIENT, PROXY_INSIDE, PROXY_OUTSIDE, SERVER, Script
from fwproxy.testing.recording import Call, Recorder, RecordingEngine, RecordingSession

F = SecondaryFlags
PARLEY_DATA = ProtocolDefinition("parley-data")
PARLEY = ProtocolDefinition("parley", secondary=("parley-data",), filters=("parley",))
LIMITS = Limits(max_permissions_per_session=4, max_connections_per_session=8)
CLIENT_HOST, SERVER_HOST = OTHER_HOST, THIRD_HOST


class ParleySession(SessionFilter):
    """Writes down what it hears, and asks for one more port when all is over."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.heard: list[str] = []
        HEARD.append(self.heard)
        self._lines: ParleyLines | None = None

    def firewall_event_handler(self, event: Event) -> Any:
        self.heard.append(_event_text(event))
        if isinstance(event, ConnectTcp) and not event.is_secondary:
            event.connection.attach_data_filter(ParleyLines(self))
        if isinstance(event, ConnectionTerminating) and not event.connection.is_secondary:
            return self._too_late()
        return None

    async def _too_late(self) -> None:
        try:
            await self.session.bind_for_client([Endpoint("0.0.0.0")], protocol=PARLEY_DATA)
        except CallError as error:
            self.heard.append(type(error).__name__)


class ParleyLines(LineFilter):
    """Does what the client's lines say, and answers with what has come of it."""

    def __init__(self, owner: ParleySession) -> None:
        self._owner = owner
        self._bound: list[Connection] = []

    async def line_from_client(self, line: bytes) -> bytes | None:
        verb, *arguments = line.decode().split()
        if verb == "PASS":
            return line
        try:
            answer = await getattr(self, f"do_{verb.lower()}")(*arguments)
        except CallError as error:
            answer = type(error).__name__
        self.to_client.send(f"{answer}\r\n".encode())
        return None

    async def do_bind(self, host: str, port: str, flags: str = "NONE", proxy: str = "") -> Any:
        self._bound = await self.connection.session.bind_for_client(
            [Endpoint(host, int(port))],
            proxy_address=Endpoint.parse(proxy) if proxy else None,
            flags=F(sum(F[name].value for name in flags.split("|"))),
            protocol=PARLEY_DATA,
            session_filter=self._owner,
            context=line_context,
        )
        return self._bound[0].proxy_address

    async def do_udp(self, host: str, port: str, flags: str) -> Any:
        bound = await self.connection.session.bind_for_client(
            [Endpoint(host, int(port))],
            transport=Transport.UDP,
            flags=F[flags],
            protocol=PARLEY_DATA,
        )
        bound[0].kill("only to see")
        return bound[0].close_reason

    async def do_later(self, *addresses: str) -> str:
        for address in addresses:
            self._bound[0].set_client_address(Endpoint.parse(address))
        return "known"

    async def do_redirect(self, *targets: str) -> Any:
        redirection = await self.connection.session.redirect_connections(
            [Endpoint.parse(target) for target in targets],
            flags=F.TIMEOUT,
            protocol=PARLEY_DATA,
            session_filter=self._owner,
        )
        return redirection.internal_address

    async def do_attach(self) -> None:
        self.connection.attach_data_filter(ParleyLines(self._owner))

    async def do_deny(self) -> None:
        self.connection.deny()

    async def do_connect(self) -> None:
        await self.connection.connect(Endpoint("0.0.0.0"))

    async def do_factory(self) -> None:
        self.connection.session.set_data_filter_factory(Listen, None, lambda *_: None)

    async def do_kill(self) -> str:
        self._bound[0].kill()
        self._bound[0].kill()
        return "killed"

    async def do_end(self) -> None:
        self.connection.kill("enough")


line_context = object()
HEARD: list[list[str]] = []


def _event_text(event: Event) -> str:
    fields = {
        field.name: getattr(event, field.name)
        for field in attrs.fields(type(event))
        if field.name not in {"connection", "protocol"}
    }
    if "context" in fields:
        fields["context"] = fields["context"] is line_context
    which = "secondary" if event.connection.is_secondary else "primary"
    return f"{type(event).__name__} {which} {fields}"


class ParleyFilter(Filter):
    name = "parley"

    def filter_init(self, firewall: Firewall) -> Hooks:
        return Hooks.on(
            ConnectTcp, BindTcp, Listen, ConnectionTerminating,
            associated=[ConnectTcp, AcceptedConnection, ConnectionTerminating],
        )  # fmt: skip

    def attach_to_session(self, session: Session) -> SessionFilter:
        return ParleySession(session)


# A conversation: what the client says; or who comes to the address told last, and where he ends up.

BOUND, REDIRECTED, STRANGER = "the server comes", "the client comes", "a stranger comes"
CONVERSATIONS = {
    "bytes": ["PASS on"],
    "inbound": ["BIND {client} {port}", BOUND],
    "outbound": ["REDIRECT {server}:{server_port}", REDIRECTED],
    "outbound, by a stranger": ["REDIRECT {server}:{server_port}", STRANGER],
    "somebody else's address": ["BIND {server} {port}"],
    "anybody's address, where that is allowed": ["BIND {server} {port} ALLOW_ADDRESSES_ALL"],
    "a low port": ["BIND {client} 80", "BIND {client} 80 IGNORE_RESTRICTED_PORTS"],
    "flags that exclude each other": ["BIND {client} {port} TIMEOUT|ALLOW_MULTIPLE"],
    "flags for UDP": ["BIND {client} {port} BIDIRECTIONAL", "UDP {client} {port} BIDIRECTIONAL"],
    "no address of the proxy": ["BIND {client} {port} NONE 203.0.113.7:0"],
    "a port that is taken": [
        "BIND {client} {port} NONE {proxy}:{free}",
        "BIND {client} {port} NONE {proxy}:{free}",
    ],
    "an address that comes later": [
        "BIND 0.0.0.0 0",
        "LATER {server}:{port}",
        "LATER {client}:{port} {client}:{port}",
        "KILL",
        "LATER {client}:{port}",
    ],
    "no address to connect to": ["REDIRECT {server}:0", "REDIRECT 0.0.0.0:80"],
    "several targets": ["REDIRECT {server}:1 {server}:2 {server}:3"],
    "too many": ["REDIRECT {server}:1"] * 5,
    "calls in the wrong place": ["ATTACH", "DENY", "CONNECT", "FACTORY"],
    "the end": ["BIND {client} {port}", "KILL", "END"],
}


@attrs.define
class Story:
    """What has happened, with names for addresses."""

    to_client: list[str]
    to_server: str
    calls: list[tuple[str, ...]]
    heard: list[str]
    secondary: list[str]

    def with_names(self, names: dict[str, str]) -> Story:
        known: dict[str, str] = {}

        def port(match: re.Match[str]) -> str:
            return known.setdefault(match.group(), f"PORT{len(known)}")

        def named(text: str) -> str:
            for value, name in names.items():
                text = re.sub(rf"(?<![\d.]){re.escape(value)}(?!\d)", name, text)
            return re.sub(r"(?<=:)[2-6]\d{4}|(?<=port=)[2-6]\d{4}", port, text)

        return Story(
            [named(line) for line in self.to_client],
            named(self.to_server),
            [tuple(map(named, call)) for call in self.calls],
            [named(line) for line in self.heard],
            self.secondary,
        )


def spelled(steps: Sequence[str], **names: object) -> list[str]:
    return [step.format(**names) for step in steps]


def calls(recorder: Recorder) -> list[tuple[str, ...]]:
    return [(*call.summary, _result(call)) for call in recorder.calls]


def _result(call: Call) -> str:
    result = call.result
    if isinstance(result, list):
        return f"{len(result)} connections"
    return type(result).__name__


def scripted(steps: Sequence[str], port: int, server_port: int, free: int) -> Story:
    client, server = CLIENT[4], SERVER[4]
    story = Story([], "", [], [], [])
    HEARD.clear()
    with Script(
        ParleyFilter,
        protocol=PARLEY,
        protocols=[PARLEY_DATA],
        server=f"{server}:{server_port}",
        limits=LIMITS,
    ) as script:
        upstream = script.server
        for step in spelled(
            steps, client=client, server=server, proxy=PROXY_OUTSIDE[4], port=port,
            server_port=server_port, free=free,
        ):  # fmt: skip
            if step in {BOUND, REDIRECTED, STRANGER}:
                told = Endpoint.parse(story.to_client[-1])
                host = {BOUND: server, REDIRECTED: client, STRANGER: "192.0.2.66"}[step]
                one = script.connect(told, host)
                if step == STRANGER:
                    story.secondary.append(f"{one.is_reset}")
                    continue
                other = script.peer(Endpoint(client, port)) if step == BOUND else script.server
                one.send(b"there")
                other.send(b"back")
                one.end()
                story.secondary += [f"{other.take()!r} {other.has_ended}"]
                other.end()
                story.secondary += [f"{one.take()!r} {one.has_ended}"]
            else:
                script.client.send(f"{step}\r\n".encode())
                story.to_client += script.client.take().decode().splitlines()
        story.to_server = upstream.take().decode()
        script.client.end()
        upstream.end()
        story.calls = calls(script._recorder)
    (story.heard,) = HEARD
    return story.with_names(
        {
            **dict.fromkeys((PROXY_INSIDE[4], PROXY_OUTSIDE[4]), "PROXY"),
            client: "CLIENT",
            server: "SERVER",
            "192.0.2.66": "STRANGER",
            str(port): "LISTENING",
            str(server_port): "UPSTREAM",
            str(free): "FREE",
        }
    )


class RecordedFirewall(Firewall):
    session_class = RecordingSession

    def _make_engine(self) -> Engine:
        return RecordingEngine.start(self.config)


async def is_cut_off(told: Endpoint, source: str) -> bool:
    try:
        peer = await Peer.connect(told, source)
    except ConnectionResetError:  # at once
        return True
    with closing(peer):
        return await peer.is_cut_off()


async def on_loopback(steps: Sequence[str], data: Upstream, upstream: Upstream, free: int) -> Story:
    port, server_port = data.address.port, upstream.address.port
    story = Story([], "", [], [], [])
    HEARD.clear()
    listener = ListenerConfig("parley", Endpoint(HOST), "parley", upstream=upstream.address)
    config = Config([listener], protocols=[*BUILT_IN, PARLEY, PARLEY_DATA], limits=LIMITS)
    ends: list[Any] = []
    async with RecordedFirewall(config, [ParleyFilter]) as firewall:
        address = firewall.listeners["parley"].address
        client = await Peer.connect(address, CLIENT_HOST)
        server = await upstream.accept()
        ends += [client, server]
        for step in spelled(
            steps, client=CLIENT_HOST, server=SERVER_HOST, proxy=HOST, port=port,
            server_port=server_port, free=free,
        ):  # fmt: skip
            if step in {BOUND, REDIRECTED, STRANGER}:
                told = Endpoint.parse(story.to_client[-1])
                host = {BOUND: SERVER_HOST, REDIRECTED: CLIENT_HOST, STRANGER: HOST}[step]
                if step == STRANGER:
                    story.secondary.append(f"{await is_cut_off(told, host)}")
                    continue
                one = await Peer.connect(told, host)
                ends.append(one)
                other = await (data if step == BOUND else upstream).accept()
                ends.append(other)
                await one.send(b"there")
                await other.send(b"back")
                one.half_close()
                story.secondary += [f"{await other.read_all()!r} True"]
                other.half_close()
                story.secondary += [f"{await one.read_all()!r} True"]
            elif step == "PASS on":
                await client.send(f"{step}\r\n".encode())
                story.to_server += (await server.receive()).decode()
            elif step == "END":
                await client.send(b"END\r\n")
                assert await client.is_cut_off()
            else:
                await client.send(f"{step}\r\n".encode())
                story.to_client += (await client.receive()).decode().splitlines()
        client.close()
        server.close()
        await eventually(lambda: not firewall.sessions)
        engine = firewall.engine
        assert isinstance(engine, RecordingEngine)
        story.calls = calls(engine.recorder)
        await eventually(lambda: not leftovers(firewall))
    for end in ends:
        end.close()
    (story.heard,) = HEARD
    return story.with_names(
        {
            CLIENT_HOST: "CLIENT",
            SERVER_HOST: "SERVER",
            HOST: "PROXY",
            str(port): "LISTENING",
            str(server_port): "UPSTREAM",
            str(free): "FREE",
        }
    )


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("steps", CONVERSATIONS.values(), ids=list(CONVERSATIONS))
def test_a_script_and_a_real_firewall_tell_the_same_story(
    steps: list[str], new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    data, upstream = Upstream(CLIENT_HOST), Upstream(SERVER_HOST)
    free = free_ports(1).first
    with closing(data, upstream), asyncio.Runner(loop_factory=new_loop) as runner:
        real = runner.run(on_loopback(steps, data, upstream, free))
        played = scripted(steps, data.address.port, upstream.address.port, free)
    assert played == real
