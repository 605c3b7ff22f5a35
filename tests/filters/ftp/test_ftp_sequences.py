"""Whatever the two ends say and in whatever order things happen: nothing open is left behind."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import CLIENT_V4, CLIENT_V6, SERVER_V4, SERVER_V6, FakeAction, FakeData, Script
from sequences import Step, stories

from fwproxy.errors import PortsExhaustedError

THIRD = "203.0.113.9"
ALWAYS_FITTING = {
    "PASV": b"227 x (192,0,2,1,11,184)\r\n",
    "EPSV": b"229 x (|||3000|)\r\n",
    "USER": b"331 x\r\n",
    "AUTH": b"234 x\r\n",
    "REST": b"350 x\r\n",
    "QUIT": b"221 x\r\n",
    "ABOR": b"225 x\r\n",
}
Thing = TypeVar("Thing")


def one(of: list[Thing], number: int) -> list[Thing]:
    """One of these, if there is any."""
    return of[number % len(of) :][:1] if of else []


class Play:
    """Does to a script what the steps say; what cannot happen just now does not."""

    def __init__(self, script: Script, piece: int) -> None:
        self.script = script
        self.session = script.session
        self._piece = piece
        self._ended: set[str] = set()

    def do(self, step: Step) -> None:
        """Let one thing happen."""
        what, detail = step
        getattr(self, f"_{what.replace(' ', '_')}")(detail)

    def _pieces(self, data: bytes) -> list[bytes]:
        return [data[i : i + self._piece] for i in range(0, len(data), self._piece)]

    def _client_says(self, lines: list[bytes]) -> None:
        if "client" not in self._ended:
            self.script.client(*self._pieces(b"".join(line + b"\r\n" for line in lines)))

    def _server_says(self, reply: bytes) -> None:
        if "server" not in self._ended and self.script.connection.server_address is not None:
            self.script.server(*self._pieces(reply))

    def _server_answers(self, mood: int) -> None:
        """Answer the oldest command as a server should; in one mood refuse it."""
        head = self.script.control.pending.head
        if head is None:
            return
        if head.is_transfer:
            reply = b"226 x\r\n" if head.is_under_way else b"150 x\r\n"
        else:
            reply = ALWAYS_FITTING.get(head.verb, b"200 x\r\n")
        self._server_says(b"425 x\r\n" if mood == 3 else reply)

    def _client_ends(self, _: int) -> None:
        if "client" not in self._ended:
            self._ended.add("client")
            self.script.client_ends()

    def _server_ends(self, _: int) -> None:
        if "server" not in self._ended and self.script.connection.server_address is not None:
            self._ended.add("server")
            self.script.server_ends()

    # Data connections.

    def _actions(self) -> list[FakeAction]:
        return [action for action in self.session.actions if action.is_active]

    def _data(self, *, established: bool | None = None) -> list[FakeData]:
        open_ = [data for data in self.session.data if not data.is_closed]
        return [data for data in open_ if established in (None, data.is_established)]

    def _client_comes(self, number: int) -> None:
        for action in one(self._actions(), number):
            if not (isinstance(action.target, FakeData) and action.target.is_closed):
                action.come()

    def _server_comes(self, number: int) -> None:
        for data in one(self._data(established=False), number):
            if data.server_address is None:
                data.server_comes()

    def _established(self, number: int) -> None:
        for data in one(self._data(established=False), number):
            if data.server_address is not None and self._client_is_there(data):
                data.established()

    def _client_is_there(self, data: FakeData) -> bool:
        joined = [action for action in self.session.actions if action.target is data]
        return not joined or data.client_is_there

    def _data_fails(self, number: int) -> None:
        for data in one(self._data(), number):
            data.close("refused", failed=True)

    def _data_ends(self, number: int) -> None:
        for data in one(self._data(established=True), number):
            data.close()

    def _expires(self, number: int) -> None:
        for action in one(self._actions(), number):
            action.cancel("expired")

    # The engine's answers.

    def _calls_wait(self, _: int) -> None:
        if self.session.gate is None:
            self.session.gate = asyncio.Event()

    def _calls_go_on(self, _: int) -> None:
        if self.session.gate is not None:
            self.script.open_gate()
            self.session.gate = None

    def _calls_fail(self, _: int) -> None:
        error = PortsExhaustedError("the test says so")
        self.session.refusals.update(dict.fromkeys(("bind", "redirect", "connect"), error))
        self.script.connection.refusal = error

    def _calls_work(self, _: int) -> None:
        self.session.refusals.clear()
        self.script.connection.refusal = None

    # What must hold at any time.

    def check(self) -> None:
        """Make sure that whatever is open has a command that needs it, or may still get one."""
        control = self.script.control
        wanted = [pending.channel for pending in control.pending._queue]
        if not self.script.is_waiting:
            orphans = [
                each for each in self.session.open if each.context not in [control.channel, *wanted]
            ]
            assert not orphans, "open, and no command can use it"
            assert not [each for each in self.session.open if each.context.has_ended]
            assert not (self.session.open and (control.is_closing or control.is_opaque))
        if not control.is_opaque:
            for data in (self.script.client_side.data, self.script.server_side.data):
                assert b"\r\n".join(data.replace(b"\r", b"").split(b"\n")) == data


def play(families: tuple[str, str], piece: int, story: list[Step], **rest: Any) -> None:
    client, server = families
    with Script(client, server, **rest) as script:
        play = Play(script, piece)
        for step in story:
            play.do(step)
            play.check()
        script.end()
        assert not script.is_waiting
        assert not asyncio.all_tasks(script.loop)


PIECES = st.sampled_from([1, 3, 1000])
MODES = st.sampled_from(["client", "active", "passive"])


@settings(max_examples=200)
@given(MODES, st.sampled_from(["refuse", "opaque"]), PIECES, stories(CLIENT_V4, SERVER_V4, THIRD))
def test_nothing_is_left_of_an_ipv4_session(mode, tls, piece, story):
    play((CLIENT_V4, SERVER_V4), piece, story, data_mode=mode, tls=tls)


@settings(max_examples=100)
@given(st.sampled_from([SERVER_V4, SERVER_V6]), MODES, PIECES, stories(CLIENT_V6, SERVER_V4, THIRD))
def test_nothing_is_left_of_an_ipv6_session(server, mode, piece, story):
    play((CLIENT_V6, server), piece, story, data_mode=mode, passive_address="allow")


@settings(max_examples=100)
@given(st.sampled_from([1, 64]), PIECES, stories(CLIENT_V4, SERVER_V4, THIRD))
def test_nothing_is_left_of_a_gateway_session(pipelined, piece, story):
    login = ("client says", [b"USER joe@server.example"])
    play((CLIENT_V4, SERVER_V4), piece, [login, *story], gateway=True, max_pipelined=pipelined)
