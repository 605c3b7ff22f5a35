"""FTP sessions in which everybody acts when a die says so, and the proxy notices in any order.

Client, server and the client's ends of the data connections are actors: each goes on from one step
to the next, as far as what it waits for is there. In between the proxy's loop turns, once at a
time, and is told of its sockets in random order, of some of them only later. Whatever the order
is, every transfer has to end as the two ends mean it to; time passes only when nobody can act.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Generator, Iterator

import attrs
from conversions import HOSTS
from scripted import Script

from fwproxy import Endpoint
from fwproxy.testing import Dialled, Peer
from fwproxy_filters.ftp.addresses import parse_227, parse_229, parse_eprt, parse_port
from fwproxy_filters.ftp.channel import ARRIVAL_PATIENCE

Wait = Callable[[], object]
Story = Iterator[Wait]
"""What one actor does; it yields what has to hold before it goes on."""

MAX_STEPS = 20_000
FIRST_PORT = 51200
PATIENCE = ARRIVAL_PATIENCE + 0.1


FATES = {
    "succeeds": {226},
    "is refused": {425, 550},
    "needs no data": {226, 425},
    "server gives up": {425},
    "server breaks": {425, 426},
    "client breaks": {226, 425, 426},
    "client refuses": {226, 425, 426},
}
"""How a transfer ends, and what the client may be told then. The server need not have noticed that
the client is gone, and the proxy may notice before the server's reply that its port is closed."""


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
        fate: how it ends, one of `FATES`.
        is_early: the server says 150 before there is a data connection, and not after.
        ends_first: the server ends the data connection before it says 226, and not after.
    """

    setup: str
    verb: str
    content: bytes
    fate: str = "succeeds"
    is_early: bool = True
    ends_first: bool = True

    def tell(self, codes: list[int]) -> None:
        """Make sure that the next codes that the client got are right, and take them away."""
        assert codes.pop(0) == {"PASV": 227, "EPSV": 229}.get(self.setup, 200), codes
        if codes[0] == 150:
            codes.pop(0)
        else:
            assert self.fate != "succeeds", codes
        assert codes.pop(0) in FATES[self.fate], self

    @property
    def is_passive(self) -> bool:
        """Whether the client connects."""
        return self.setup in {"PASV", "EPSV"}


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
        self._waits = len(transfers) + 1
        self._closed = 0
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
            Actor(self._closed_ports()),
            *(Actor(self._data(number)) for number in range(len(self._transfers))),
        ]
        loop = self.script.play.loop
        self.script.play.arrange = self._arrange
        with self.script.play.at_once():
            for _ in range(MAX_STEPS):
                choices = [actor.act for actor in actors if actor.can_act]
                if loop.is_busy:
                    choices.append(loop.turn)
                if choices:
                    self._rng.choice(choices)()
                elif self._is_stuck:
                    return
                else:  # the last thing that can help, once for each transfer
                    loop.advance(PATIENCE)
                    self._waits -= 1
        raise AssertionError("there is no end to it")

    @property
    def _is_stuck(self) -> bool:
        """Whether nothing happens any more, however long everybody waits."""
        return self._waits <= 0

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

    @property
    def _final_replies(self) -> int:
        return sum(code >= 200 for code in self.codes)

    def _client(self, *, is_pipelined: bool, leaves_early: bool) -> Story:
        heard = 1
        for number, transfer in enumerate(self._transfers):
            for line in (self._setup(number), b"%b %d" % (transfer.verb.encode(), number)):
                if not is_pipelined:
                    yield lambda: self._final_replies >= heard  # noqa: B023 - looked at now
                self.script.client(line + b"\r\n")
                heard += 1
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
        before = sum(each.is_passive for each in self._transfers[:number])
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
        if transfer.is_passive:
            yield lambda: self._told(number)
            try:
                peer = self.script.play.connect(self._told(number))
            except ConnectionRefusedError:
                assert transfer.fate != "succeeds"
                return
        else:
            dial = yield from self._dialled(self._port(number))
            if dial is None:
                return
            if transfer.fate == "client refuses":
                dial.refuse()
                return
            peer = dial.accept()
        yield at_once
        if transfer.fate.startswith("client"):
            peer.reset()
        elif transfer.verb == "STOR":
            yield from _send(peer, transfer.content)
        else:
            yield lambda: peer.has_ended or peer.is_reset
            self.arrived[number] = None if peer.is_reset else peer.received
            peer.end()

    def _dialled(self, port: Endpoint) -> Generator[Wait, None, Dialled | None]:
        """Wait until the proxy connects to a port; None if it never does."""
        yield lambda: self._dial(port) or self._is_stuck
        return self._dial(port)

    def _dial(self, port: Endpoint) -> Dialled | None:
        return next((each for each in self.script.play.dials if each.target == port), None)

    # The server.

    def _say(self, reply: bytes) -> None:
        self.script.server(reply + b"\r\n")

    def _server(self) -> Story:
        target: Endpoint | None = None
        own, done = Endpoint(self._server_host, FIRST_PORT), 0
        while True:
            yield lambda: len(self._lines) > done  # noqa: B023 - looked at now
            verb, _, argument = self._lines[done].partition(b" ")
            done += 1
            if verb == b"QUIT":
                self._say(b"221 Bye")
                yield at_once
                self.script.server_ends()
                self._closed = own.port
                return
            if verb in {b"PASV", b"EPSV"}:
                self._closed = own.port
                target, own = None, own.with_port(own.port + 1)
                self._say(_passive_reply(verb, own))
            elif verb in {b"PORT", b"EPRT"}:
                target = _target(verb, argument)
                self._say(b"200 Ok")
            else:
                yield from self._transfer(int(argument), own, target)
                if self._transfers[int(argument)].fate != "is refused":
                    self._closed = own.port
            yield at_once

    @property
    def _lines(self) -> list[bytes]:
        return re.findall(rb"(.*)\r\n", self.script.play.server.received)

    def _transfer(self, number: int, own: Endpoint, target: Endpoint | None) -> Story:
        transfer = self._transfers[number]
        if transfer.fate == "is refused":
            self._say(b"550 No such file")
            return
        if transfer.is_early:
            self._say(b"150 Coming")
            yield at_once
        if transfer.fate in {"server gives up", "needs no data"}:
            self._say(b"226 Nothing" if transfer.fate == "needs no data" else b"425 No")
            return
        peer = yield from self._data_of_server(own, target)
        if peer is None:
            self._say(b"425 Nobody has come")
            return
        if not transfer.is_early:
            yield at_once
            self._say(b"150 Here")
        yield at_once
        yield from self._carry(number, peer)

    def _data_of_server(
        self, own: Endpoint, target: Endpoint | None
    ) -> Generator[Wait, None, Peer | None]:
        """Return the server's end of a data connection, unless there is none."""
        if target is None:
            dial = yield from self._dialled(own)
            return None if dial is None else dial.accept()
        try:
            return self.script.play.connect(target, self._server_host)
        except ConnectionRefusedError:
            return None

    def _carry(self, number: int, peer: Peer) -> Story:
        transfer = self._transfers[number]
        if transfer.fate == "server breaks":
            peer.send(transfer.content[:1])
            yield at_once
            last = [peer.reset, lambda: self._say(b"426 Broken")]
            for act in last if transfer.ends_first else reversed(last):
                act()
                yield at_once
            return
        if transfer.verb == "RETR":
            yield from _send(peer, transfer.content, ends=transfer.ends_first)
        else:
            yield lambda: peer.has_ended or peer.is_reset
            self.arrived[number] = None if peer.is_reset else peer.received
        self._say(b"426 Broken" if peer.is_reset else b"226 Done")
        yield at_once
        peer.end()

    def _closed_ports(self) -> Story:
        """Refuse whoever comes to a port where the server does not wait any more."""
        while True:
            yield lambda: self._stray
            assert self._stray is not None
            self._stray.refuse()

    @property
    def _stray(self) -> Dialled | None:
        for each in self.script.play.dials:
            if each.target.host == self._server_host and each.target.port <= self._closed:
                return each
        return None


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
