"""Random FTP sessions over real sockets: whatever the ends do, the firewall holds nothing after."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Any

import pytest
import uvloop
from ftp_dialogue import HANDLERS, Dialogue, Handler
from ftp_ends import FtpClient, FtpWorld, Listening, open_ftp
from hypothesis import given, settings
from hypothesis import strategies as st
from rig import Peer, advance, turns

from fwproxy import Endpoint
from fwproxy.config.config import Limits
from fwproxy_filters.ftp.addresses import parse_227, parse_229
from fwproxy_filters.ftp.errors import FtpSyntaxError

EXPIRY = 61
LIMITS = Limits(filter_timeout=0.2, drain_timeout=0)
"""Nobody here finishes, and a success waits in vain for a client that does not fetch its file."""
ODD_ANSWERS: tuple[bytes | str, ...] = (
    b"425 No\r\n", b"500 What?\r\n", b"200-a\r\n 226 b\r\n200 c\r\n", b"150 Wait\r\n",
    b"226 Done\r\n", b"227 x (127,0,0,3,40,1)\r\n", b"227 x (127,0,0,1,0,9)\r\n", b"229 x\r\n",
    b"nonsense\r\n", b"421 Bye\r\n", b"", "leave",
)  # fmt: skip
"""What a server may say instead; it leaves, too."""
LINES = (
    "PASV", "PASV", "EPSV", "EPSV", "PORT", "PORT", "EPRT", "RETR f", "RETR f", "STOR f", "LIST",
    "ABOR", "REIN", "QUIT", "NOOP", "REST 5", "STAT", "EPSV ALL", "PORT 127,0,0,9,40,1",
    "PORT 1,2,3", "EPRT |1|::1|4|", "RETR \0", "GET / HTTP/1.1",
)  # fmt: skip
ACTS = ("comes", "comes", "accepts", "sends", "ends", "resets", "time passes", "half-closes")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("says"), st.lists(st.sampled_from(LINES), min_size=1, max_size=3)),
        st.tuples(st.sampled_from(ACTS), st.none()),
    ),
    min_size=3,
    max_size=20,
)
ANSWERS = st.lists(st.sampled_from([None] * 9 + [*ODD_ANSWERS]), max_size=12)
LAST_ACTS = st.sampled_from(["close", "reset", "quit", "server leaves"])


class Rover:
    """A client that does what the steps say."""

    def __init__(self, world: FtpWorld, client: FtpClient) -> None:
        self.world = world
        self.client = client
        self.heard = b""
        self._listening: list[Listening] = []
        self._data: list[Peer] = []

    async def do(self, what: str, lines: list[str] | None) -> None:
        """Do one thing, and let the firewall have a look at it."""
        with contextlib.suppress(OSError):
            match what:
                case "says":
                    await self.client.send(b"".join(map(self._line, lines or ())))
                case "comes":
                    await self._comes()
                case "accepts":
                    self._accepts()
                case "sends":
                    for peer in self._data[-1:]:
                        peer.sock.send(b"x" * 100)
                case "ends" | "resets":
                    for peer in self._data[-1:]:
                        (peer.close if what == "ends" else peer.reset)()
                        self._data.remove(peer)
                case "time passes":
                    advance(self.world.firewall.engine.deadlines, EXPIRY)
                case "half-closes":
                    self.client.peer.half_close()
        await turns()
        self._hear()

    def _line(self, line: str) -> bytes:
        if line in {"PORT", "EPRT"}:
            listening = self.world.add(Listening())
            self._listening.append(listening)
            line = listening.port_command if line == "PORT" else listening.eprt_command
        return line.encode() + b"\r\n"

    def _hear(self) -> None:
        with contextlib.suppress(OSError):
            self.heard += self.client.peer.sock.recv(65536)

    async def _comes(self) -> None:
        """Connect to the port that the client was told of last."""
        for line in reversed(self.heard.splitlines()):
            with contextlib.suppress(FtpSyntaxError):
                if line.startswith(b"227 "):
                    address = parse_227(line[4:])
                elif line.startswith(b"229 "):
                    address = Endpoint(self.world.address.host, parse_229(line[4:]))
                else:
                    continue
                self._data.append(await self.world.open_data(address))
                return

    def _accepts(self) -> None:
        for listening in self._listening:
            with contextlib.suppress(BlockingIOError):
                self._data.append(self.world.add(Peer(listening.sock.accept()[0])))


def moody(answers: list[bytes | str | None]) -> dict[str, Handler | bytes]:
    """Handlers of a server that answers as it should (None) or otherwise, in this order."""
    moods = itertools.chain(answers, itertools.repeat(None))

    def handler(proper: Handler | bytes) -> Handler:
        def answer(dialogue: Dialogue, argument: bytes) -> Any:
            mood = next(moods)
            if mood == "leave":
                dialogue.leave()
            if mood is None:
                return proper if isinstance(proper, bytes) else proper(dialogue, argument)
            return mood if isinstance(mood, bytes) else None

        return answer

    return {verb: handler(proper) for verb, proper in HANDLERS.items()}


async def session(mode: str, answers: list[Any], steps: list[Any], last: str) -> None:
    """Play one session; `open_ftp` makes sure that the firewall holds nothing after it."""
    async with open_ftp(data_mode=mode, limits=LIMITS) as world:
        client = await world.login()
        world.server.handlers.update(moody(answers))
        rover = Rover(world, client)
        for what, lines in steps:
            await rover.do(what, lines)
        await rover.do("says", ["QUIT"] if last == "quit" else [])
        if last != "server leaves":
            (client.peer.reset if last == "reset" else client.close)()
        world.server.last.leave_for_good()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@settings(max_examples=40, derandomize=True)
@given(st.sampled_from(["client", "active", "passive"]), ANSWERS, STEPS, LAST_ACTS)
def test_the_firewall_holds_nothing_after_a_random_session(loop, mode, answers, steps, last):
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(session(mode, answers, steps, last))
