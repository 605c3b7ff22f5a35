"""FTP sessions in which everybody acts when a die says so, and the proxy notices in any order.

Client, server and the client's ends of the data connections are actors: each goes on from one step
to the next, as far as what it waits for is there. In between the proxy's loop turns, once at a
time, and is told of its sockets in random order, of some of them only later. As nobody here makes
mistakes and no time passes, whatever the order is, every transfer has to succeed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

import attrs
from conversions import HOSTS
from scripted import Script

from fwproxy import Endpoint
from fwproxy.testing import Dialled, Peer
from fwproxy_filters.ftp.addresses import parse_227, parse_229, parse_eprt, parse_port

Story = Iterator[Callable[[], object]]
"""What one actor does; it yields what has to hold before it goes on."""

MAX_STEPS = 20_000


def at_once() -> bool:
    """Wait for nothing: only let others have their turn."""
    return True


@attrs.frozen
class Transfer:
    """One transfer as the client and the server mean it to be.

    Attributes:
        setup: PORT, EPRT, PASV or EPSV.
        verb: RETR or STOR.
        content: the file.
        is_refused: the server says 550 instead.
        is_early: the server says 150 before there is a data connection, and not after.
        ends_first: the server ends the data connection before it says 226, and not after.
    """

    setup: str
    verb: str
    content: bytes
    is_refused: bool = False
    is_early: bool = True
    ends_first: bool = True

    @property
    def codes(self) -> list[int]:
        """What the client has to be told."""
        setup = {"PASV": 227, "EPSV": 229}.get(self.setup, 200)
        return [setup, 550] if self.is_refused else [setup, 150, 226]


class Actor:
    """Goes on with its story, step by step."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._waits_for: Callable[[], object] | None = at_once

    @property
    def can_act(self) -> bool:
        return self._waits_for is not None and bool(self._waits_for())

    def act(self) -> None:
        self._waits_for = next(self._story, None)


class Scene:
    """Plays a session.

    Attributes:
        arrived: what has come of each transfer where it was to, or None.
    """

    def __init__(
        self, script: Script, versions: str, transfers: list[Transfer], rng: random.Random
    ) -> None:
        self.script = script
        self._client_host, self._server_host = HOSTS[versions[0]][0], HOSTS[versions[1]][1]
        self._transfers = transfers
        self._rng = rng
        self.arrived: list[bytes | None] = [None] * len(transfers)

    def play(self, *, is_pipelined: bool, leaves_early: bool) -> None:
        """Let everybody act until nobody can any more.

        Args:
            is_pipelined: the client says everything before it hears anything.
            leaves_early: it says its end after its last command.
        """
        actors = [
            Actor(self._client(is_pipelined=is_pipelined, leaves_early=leaves_early)),
            Actor(self._server()),
            *(Actor(self._data(n)) for n, each in enumerate(self._transfers) if each.setup),
        ]
        loop = self.script.play.loop
        self.script.play.arrange = self._arrange
        with self.script.play.at_once():
            for _ in range(MAX_STEPS):
                choices = [actor.act for actor in actors if actor.can_act]
                if loop.is_busy:
                    choices.append(loop.turn)
                if not choices:
                    return
                self._rng.choice(choices)()
        raise AssertionError("there is no end to it")

    def _arrange(self, descriptors: list[int]) -> list[int]:
        self._rng.shuffle(descriptors)
        return descriptors[: self._rng.randint(0, len(descriptors))]

    # The client.

    @property
    def codes(self) -> list[int]:
        """The codes of the replies that the client has got."""
        return [int(line[:3]) for line in self._replies]

    @property
    def _replies(self) -> list[bytes]:
        return self.script.play.client.received.splitlines()

    def _client(self, *, is_pipelined: bool, leaves_early: bool) -> Story:
        heard = 1
        for number, transfer in enumerate(self._transfers):
            for line, count in (
                (self._setup(number), 1),
                (b"%b %d" % (transfer.verb.encode(), number), len(transfer.codes) - 1),
            ):
                if not is_pipelined:
                    yield lambda: len(self._replies) >= heard  # noqa: B023 - looked at now
                self.script.client(line + b"\r\n")
                heard += count
                yield at_once
        self.script.client(b"QUIT\r\n")
        yield at_once
        if leaves_early:
            self.script.client_ends()
        yield lambda: self.script.play.client.has_ended
        self.script.client_ends()

    def _port(self, number: int) -> Endpoint:
        return Endpoint(self._client_host, 5000 + number)

    def _setup(self, number: int) -> bytes:
        verb, port = self._transfers[number].setup, self._port(number)
        if verb == "PORT":
            numbers = port.host.replace(".", ",").encode()
            return b"PORT %b,%d,%d" % (numbers, *divmod(port.port, 256))
        if verb == "EPRT":
            family = 2 if ":" in port.host else 1
            return f"EPRT |{family}|{port.host}|{port.port}|".encode()
        return verb.encode()

    def _told(self, number: int) -> Endpoint | None:
        """Return the port that the client was told for a passive transfer."""
        before = sum(each.setup in {"PASV", "EPSV"} for each in self._transfers[:number])
        found = [line for line in self._replies if line[:3] in {b"227", b"229"}]
        if len(found) <= before:
            return None
        line = found[before]
        if line.startswith(b"227"):
            return parse_227(line[4:])
        return Endpoint(self.script.play.client.remote.host, parse_229(line[4:]))

    def _data(self, number: int) -> Story:
        """The client's end of a data connection."""
        transfer = self._transfers[number]
        if transfer.is_refused:
            return
        if transfer.setup in {"PASV", "EPSV"}:
            yield lambda: self._told(number)
            peer = self.script.play.connect(self._told(number))
        else:
            peer = yield from self._called_at(self._port(number))
        yield at_once
        if transfer.verb == "STOR":
            yield from _send(peer, transfer.content)
        else:
            yield lambda: peer.has_ended or peer.is_reset
            self.arrived[number] = None if peer.is_reset else peer.received
            peer.end()

    def _called_at(self, port: Endpoint) -> Iterator[Callable[[], object]]:
        """Wait until the proxy connects to a port."""
        yield lambda: self._dial(port)
        dial = self._dial(port)
        assert dial is not None
        return dial.accept()

    def _dial(self, port: Endpoint) -> Dialled | None:
        return next((each for each in self.script.play.dials if each.target == port), None)

    # The server.

    def _say(self, reply: bytes) -> None:
        self.script.server(reply + b"\r\n")

    def _server(self) -> Story:
        target: Endpoint | None = None
        own, done = Endpoint(self._server_host, 51200), 0
        while True:
            yield lambda: len(self._lines) > done  # noqa: B023 - looked at now
            verb, _, argument = self._lines[done].partition(b" ")
            done += 1
            if verb == b"QUIT":
                self._say(b"221 Bye")
                yield at_once
                self.script.server_ends()
                return
            if verb in {b"PASV", b"EPSV"}:
                target, own = None, own.with_port(own.port + 1)
                self._say(_passive_reply(verb, own))
            elif verb in {b"PORT", b"EPRT"}:
                target = _target(verb, argument)
                self._say(b"200 Ok")
            else:
                yield from self._transfer(int(argument), own, target)
            yield at_once

    @property
    def _lines(self) -> list[bytes]:
        return re.findall(rb"(.*)\r\n", self.script.play.server.received)

    def _transfer(self, number: int, own: Endpoint, target: Endpoint | None) -> Story:
        transfer = self._transfers[number]
        if transfer.is_refused:
            self._say(b"550 No such file")
            return
        if transfer.is_early:
            self._say(b"150 Coming")
            yield at_once
        if target is None:
            peer = yield from self._called_at(own)
        else:
            peer = self.script.play.connect(target, self._server_host)
        if not transfer.is_early:
            yield at_once
            self._say(b"150 Here")
        yield at_once
        if transfer.verb == "RETR":
            yield from _send(peer, transfer.content, ends=transfer.ends_first)
        else:
            yield lambda: peer.has_ended or peer.is_reset
            self.arrived[number] = None if peer.is_reset else peer.received
        self._say(b"226 Done")
        yield at_once
        peer.end()


def _send(peer: Peer, content: bytes, *, ends: bool = True) -> Story:
    for piece in (content[:1], content[1:]):
        peer.send(piece)
        yield at_once
    if ends:
        peer.end()


def _target(verb: bytes, argument: bytes) -> Endpoint:
    return parse_port(argument) if verb == b"PORT" else parse_eprt(argument, (1, 2))


def _passive_reply(verb: bytes, own: Endpoint) -> bytes:
    if verb == b"EPSV":
        return b"229 Extended (|||%d|)" % own.port
    numbers = own.host.replace(".", ",").encode()
    return b"227 Passive (%b,%d,%d)" % (numbers, *divmod(own.port, 256))
