"""Whatever the two ends say and in whatever order things happen: nothing open is left behind."""

from __future__ import annotations

from typing import Any, TypeVar

from hypothesis import example, given, settings
from hypothesis import strategies as st
from scripted import CLIENT_V4, CLIENT_V6, SERVER_V4, SERVER_V6, Script
from sequences import Step, client_lines, stories

from fwproxy import Connection, Endpoint
from fwproxy.connection.connection import ConnectionState
from fwproxy.errors import PortsExhaustedError
from fwproxy.testing import Peer
from fwproxy.testing.strategies import cut

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
CALLS = ("bind", "redirect", "connect", "dial")
Thing = TypeVar("Thing")


def one(of: list[Thing], number: int) -> list[Thing]:
    """One of these, if there is any."""
    return of[number % len(of) :][:1] if of else []


class Play:
    """Does to a script what the steps say; what cannot happen just now does not."""

    def __init__(self, script: Script, piece: int) -> None:
        self.script = script
        self._piece = piece
        self._ended: set[str] = set()
        self._peers: list[Peer] = []

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
        if "server" not in self._ended and self.script.has_server:
            self.script.server(*self._pieces(reply))

    def _server_answers(self, mood: int) -> None:
        """Answer the oldest command as a server should; refuse it; or answer the youngest."""
        commands = list(self.script.control.pending._commands)
        if not commands:
            return
        head = commands[-1 if mood == 2 else 0]
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
        if "server" not in self._ended and self.script.has_server:
            self._ended.add("server")
            self.script.server_ends()

    # Data connections.

    def _comes(self, address: Endpoint, host: str | None = None) -> None:
        self._peers.append(self.script.play.connect(address, host))

    def _client_comes(self, number: int) -> None:
        made = [
            call.result.internal_address
            for call in self.script.play.calls_of("redirect_connections")
            if call.result and call.result.actions[0].is_active
        ]
        for address in one(made, number):
            self._comes(address)

    def _server_comes(self, number: int) -> None:
        waiting = [
            each.proxy_address
            for each in self.script.play.secondaries
            if each.state is ConnectionState.BOUND and each.permission.is_active
        ]
        for address in one(waiting, number):
            self._comes(address, self.script.server_host)

    def _established(self, number: int) -> None:
        for dial in one(self.script.dials, number):
            self._peers.append(dial.accept())

    def _data_fails(self, number: int) -> None:
        for end in one([*self.script.dials, *self._living], number):
            if isinstance(end, Peer):
                end.reset()
            else:
                end.refuse()

    def _data_ends(self, number: int) -> None:
        """Let both sides end, or one of them."""
        for peer in self._living if number % 2 == 0 else one(self._living, number):
            peer.end()

    @property
    def _living(self) -> list[Peer]:
        return [peer for peer in self._peers if not peer.is_gone]

    def _expires(self, number: int) -> None:
        for action in one([each for each in self.script.actions if each.is_active], number):
            action.expire()
            self.script.play.settle()

    # The engine's answers.

    def _calls_wait(self, _: int) -> None:
        self.script.hold()

    def _calls_go_on(self, _: int) -> None:
        self.script.let_go()

    def _calls_fail(self, number: int) -> None:
        for call in (CALLS, *((call, "dial") for call in CALLS))[number]:
            self.script.refuse(call, PortsExhaustedError("the test says so"))

    def _calls_work(self, _: int) -> None:
        for call in CALLS:
            self.script.refuse(call, None)

    # What must hold at any time.

    def check(self) -> None:
        """Make sure that whatever is open has a command that uses it, or that may still come."""
        control, play = self.script.control, self.script.play
        if not self.script.is_waiting:
            usable = [pending.channel for pending in control.pending._queue]
            if not self._is_last_command:
                usable.append(control.channel)
            usable = [each for each in usable if each is not None and not each.has_ended]
            actions = [action for channel in usable for action in channel.actions]
            for each in self.script.open:
                assert not self._is_over
                assert (each.context in usable) if isinstance(each, Connection) else each in actions
        if not control.is_opaque:
            ends = [play.client, play.server] if self.script.has_server else [play.client]
            for data in (end.received for end in ends):
                assert b"\r\n".join(data.replace(b"\r", b"").split(b"\n")) == data

    @property
    def _is_last_command(self) -> bool:
        """Whether no command can come that uses what the commands before have set up."""
        if not self.script.has_server:
            return False
        last = self.script.play.server
        return last.has_ended or last.received.endswith((b"REIN\r\n", b"QUIT\r\n"))

    @property
    def _is_over(self) -> bool:
        """Whether nothing can set up or use data connections any more."""
        control, ended = self.script.control, "server" in self._ended
        return control.is_closing or control.is_opaque or ended


def play(families: tuple[str, str], piece: int, story: list[Step], **rest: Any) -> None:
    client, server = families
    with Script(client, server, hosts={"server.example": [server]}, **rest) as script:
        play = Play(script, piece)
        for step in story:
            play.do(step)
            play.check()


PIECES = st.sampled_from([1, 3, 1000])
MODES = st.sampled_from(["client", "active", "passive"])


@settings(max_examples=250)
@given(MODES, st.sampled_from(["refuse", "opaque"]), PIECES, stories(CLIENT_V4, SERVER_V4, THIRD))
def test_nothing_is_left_of_an_ipv4_session(mode, tls, piece, story):
    play((CLIENT_V4, SERVER_V4), piece, story, data_mode=mode, tls=tls)


@settings(max_examples=125)
@given(st.sampled_from([SERVER_V4, SERVER_V6]), MODES, PIECES, stories(CLIENT_V6, SERVER_V4, THIRD))
def test_nothing_is_left_of_an_ipv6_session(server, mode, piece, story):
    play((CLIENT_V6, server), piece, story, data_mode=mode, passive_address="allow")


@settings(max_examples=125)
@given(
    st.sampled_from([1, 64]),
    st.sampled_from([3, 3, 2, 1, 0]),
    PIECES,
    stories(CLIENT_V4, SERVER_V4, THIRD),
)
def test_nothing_is_left_of_a_gateway_session(pipelined, steps, piece, story):
    login: list[Step] = [
        ("client says", [b"USER joe@server.example"]),
        *[("server answers", 0)] * 2,
    ]
    play(
        (CLIENT_V4, SERVER_V4), piece, login[:steps] + story, gateway=True, max_pipelined=pipelined
    )


SOLID_REPLIES = (
    b"200 x\r\n", b"150 x\r\n", b"226 x\r\n", b"331 x\r\n", b"425 x\r\n", b"500 x\r\n",
    b"211-x\r\n EPSV\r\n AUTH TLS\r\n226 x\r\n211 x\r\n", b"229 x (|||3000|)\r\n",
    b"227 x (192,0,2,1,11,184)\r\n", b"227 x (203,0,113,9,11,184)\r\n", b"what?\r\n",
)  # fmt: skip
LINES = client_lines(CLIENT_V4, THIRD).map(lambda line: line + b"\r\n")
REPLIES = st.lists(st.sampled_from(SOLID_REPLIES), max_size=5).map(b"".join)
TALKS = st.lists(st.tuples(cut(LINES), cut(REPLIES)), max_size=3)
LAST_WORDS = st.lists(LINES, max_size=5).map(b"".join)


def outcome(talk: list[tuple[list[bytes], list[bytes]]], **rest: Any) -> tuple[Any, ...]:
    """What the two ends hear and what the engine is asked for, part by part.

    In between the server answers what it has not: a reply that comes before its command was sent
    is another matter, where it does count what comes together.
    """
    with Script(**rest) as script:
        found: list[Any] = []
        for requests, replies in talk:
            script.client(*filter(None, requests)).server(*filter(None, replies))
            while script.control.pending.head is not None and not script.connection.is_closed:
                script.server(b"500 x\r\n")
            found.append((script.heard(), script.got(), len(script.open)))
        return found, script.calls, script.has_hung_up


@settings(max_examples=150)
@example("client", [], [b"ABOR\r\n", b"\xff\xf4\xff\xf2ABOR\r\n"])
@given(MODES, TALKS, cut(LAST_WORDS))
def test_every_split_of_a_session_gives_the_same_bytes_and_ports(mode, talk, last_words):
    talk = [*talk, (last_words, [])]
    whole = [([b"".join(requests)], [b"".join(replies)]) for requests, replies in talk]
    assert outcome(talk, data_mode=mode) == outcome(whole, data_mode=mode)
