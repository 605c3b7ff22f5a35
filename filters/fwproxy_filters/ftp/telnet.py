"""The Telnet commands in a client's control stream (RFC 854, RFC 959 section 4.1.3).

FTP's control connection is a Telnet one. In practice a client sends IAC IP, IAC DM before ABOR, and
hardly ever an option negotiation; every option is refused (RFC 1123 section 4.1.2.12).

Byte 255 is also a letter (ÿ) in 8-bit file names, and clients differ in whether they double it. The
rule here, which never takes away a line end:

- IAC IAC is a doubled 255: both bytes stay, so that the server gets what the client sent;
- IAC and a byte below 240 is a 255 that was not doubled: both bytes stay;
- IAC WILL, WONT, DO, DONT before a CR or LF, and IAC SB that has no IAC SE in the same line and
  within `MAX_SUBNEGOTIATION` bytes, are letters as well: they stay;
- everything else that begins with IAC is a Telnet command and is taken out.

UTF-8 never holds a byte 255, so that the rule matters for Latin-1 and its like alone.
"""

from __future__ import annotations

import enum

MAX_SUBNEGOTIATION = 256
"""Bytes from IAC SB to IAC SE, both included."""

TELNET_SYNCH = b"\xff\xf4\xff\xf2"
"""IAC IP, IAC DM; the last byte goes as urgent data (RFC 854)."""

IAC = b"\xff"
"""Interpret as command: begins every Telnet command."""
_SUBNEGOTIATION_END = b"\xff\xf0"
_SE, _DM, _IP, _SB, _WILL, _WONT, _DO, _DONT = 240, 242, 244, 250, 251, 252, 253, 254
_REFUSALS = {_WILL: _DONT, _DO: _WONT}


class TelnetSignal(enum.Flag):
    """Which commands were taken out of the stream."""

    NONE = 0
    INTERRUPT = enum.auto()
    """IAC IP."""
    SYNCH = enum.auto()
    """IAC DM, the mark of a Synch, whether it came as urgent data or in line."""
    NEGOTIATION = enum.auto()
    """WILL, WONT, DO, DONT or a subnegotiation."""
    OTHER = enum.auto()
    """Any other command: NOP, BRK, AO, AYT, EC, EL, GA."""


_SIGNALS = {_IP: TelnetSignal.INTERRUPT, _DM: TelnetSignal.SYNCH} | dict.fromkeys(
    (_SB, _WILL, _WONT, _DO, _DONT), TelnetSignal.NEGOTIATION
)


class TelnetStripper:
    """Takes Telnet commands out of a byte stream, however it is cut into pieces."""

    __slots__ = ("_held", "_refusals", "_signals")

    def __init__(self) -> None:
        self._held = b""
        self._refusals: dict[bytes, None] = {}
        self._signals = TelnetSignal.NONE

    @property
    def pending(self) -> int:
        """How many bytes of an incomplete command are held, at most `MAX_SUBNEGOTIATION`."""
        return len(self._held)

    def feed(self, data: bytes) -> bytes:
        """Take bytes, return those that are not Telnet's."""
        if self._held:
            data = self._held + data
            self._held = b""
        at = data.find(IAC)
        return data if at < 0 else self._strip(data, at)

    def take_signals(self) -> TelnetSignal:
        """Return the commands seen since the last call."""
        signals, self._signals = self._signals, TelnetSignal.NONE
        return signals

    def take_refusals(self) -> bytes:
        """Return the answers that the client is owed: DONT for its WILL, WONT for its DO.

        An option that was asked for several times since the last call is refused once, which also
        bounds what is kept.
        """
        refusals = b"".join(self._refusals)
        self._refusals.clear()
        return refusals

    def _strip(self, data: bytes, at: int) -> bytes:
        kept, start = [], 0
        while at >= 0:
            length, is_command = _measure(data, at)
            if not length:
                self._held = data[at:]
                kept.append(data[start:at])
                return b"".join(kept)
            if is_command:
                self._note(data[at : at + length])
                kept.append(data[start:at])
                start = at + length
            at = data.find(IAC, at + length)
        kept.append(data[start:])
        return b"".join(kept)

    def _note(self, sequence: bytes) -> None:
        command = sequence[1]
        self._signals |= _SIGNALS.get(command, TelnetSignal.OTHER)
        if command in _REFUSALS:
            self._refusals[bytes((255, _REFUSALS[command], sequence[2]))] = None


def _measure(data: bytes, at: int) -> tuple[int, bool]:
    """Return the length of the sequence at *at*, 0 if incomplete, and whether it is a command."""
    if at + 1 == len(data):
        return 0, False
    command = data[at + 1]
    if command < _SE or command == 255:
        return (1 if command < _SE else 2), False
    if command < _SB:
        return 2, True
    if command == _SB:
        return _measure_subnegotiation(data, at)
    if at + 2 == len(data):
        return 0, False
    return (2, False) if data[at + 2] in b"\r\n" else (3, True)


def _measure_subnegotiation(data: bytes, at: int) -> tuple[int, bool]:
    limit = at + MAX_SUBNEGOTIATION
    line_end = data.find(b"\n", at + 2, limit)
    end = data.find(_SUBNEGOTIATION_END, at + 2, limit if line_end < 0 else line_end)
    if end >= 0:
        return end + 2 - at, True
    if line_end >= 0 or len(data) >= limit:
        return 2, False
    return 0, False


def unescape(name: bytes) -> bytes:
    """Return the file name that *name*, as it stands in a line, means in Telnet's terms.

    Two bytes 255 are one, and CR NUL is a CR (RFC 2640 section 3.1).
    """
    return name.replace(b"\xff\xff", IAC).replace(b"\r\0", b"\r")
