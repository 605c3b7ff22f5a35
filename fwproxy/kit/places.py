"""Where in a message addresses stand: found, checked, and ready to be replaced.

A `Place` is what the two halves of a filter have in common: the half that reads finds places, the
one that has asked for a port of the proxy makes edits of them (`fwproxy.kit.rewrite`).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, Protocol

import attrs

from fwproxy.address import Destination, Endpoint
from fwproxy.kit.endpoints import (
    Codec,
    CountedHost,
    EndpointError,
    FamilyError,
    FoundT_co,
    HostPort,
    SixNumbers,
    checked_port,
    format_host,
    parse_host,
    parse_port,
)

_NUMBER_LIST = re.compile(rb"(?<![0-9])[0-9]++(?: *+, *+[0-9]++)++")
_NOT_BEFORE = re.compile(rb"(?:[\w+.-]|,[ ]*)\Z", re.ASCII)
_NOT_AFTER = re.compile(rb"[\w+-]|[ ]*,|\.[0-9]", re.ASCII)
_SIX_NUMBERS = SixNumbers()
_LITERAL = re.compile(
    rb"(?<![\w.:@\[\]-])(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}"
    rb"(?![\w:\[\]-]|\.\w)",
    re.ASCII,
)
_AUTHORITY = re.compile(
    rb"(?<![\w+.-])([A-Za-z][A-Za-z0-9+.-]{0,31}+):(?://)?"
    # A user before the host is looked for so far and no further; what is longer is no URL.
    rb"(?=[^\s@/<>\"]{0,256}+(?:[\s@/<>\"]|\Z))(?:[^\s@/<>\"]*+@)?"
    rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]++)(:[0-9]++)?+(?![\w:@-])",
    re.ASCII,
)


@attrs.frozen
class Edit:
    """Bytes to put in the place of others.

    Attributes:
        start: where those begin that go.
        end: where they end.
        new: what comes instead.
    """

    start: int
    end: int
    new: bytes


class AnyPlace(Protocol):
    """Where a message holds an address."""

    @property
    def destination(self) -> Destination:
        """The address that stands there."""

    def edits(self, new: Destination, *, same_family: bool = False) -> list[Edit]:
        """Return what puts another address there.

        Raises:
            FamilyError: it is of another family, and must not be or cannot be spelled there.
            EndpointError: it cannot be spelled there.
        """


def _check_family(old: Destination, new: Destination) -> None:
    if isinstance(old, Endpoint) and isinstance(new, Endpoint) and old.version != new.version:
        raise FamilyError(f"{new} is of another family than {old}")


@attrs.frozen
class Place(Generic[FoundT_co]):
    """An address in one piece.

    Attributes:
        start: where it begins.
        end: where it ends.
        destination: the address.
        codec: how it is spelled.
    """

    start: int
    end: int
    destination: FoundT_co
    codec: Codec[FoundT_co]

    @classmethod
    def at(cls, message: bytes, start: int, end: int, codec: Codec[FoundT_co]) -> Place[FoundT_co]:
        """Return the place of the address in these bytes.

        Raises:
            EndpointError: there is none.
        """
        return cls(start, end, codec.parse(message[start:end]), codec)

    def edits(self, new: Destination, *, same_family: bool = False) -> list[Edit]:
        """Return the edit that puts another address there."""
        if same_family:
            _check_family(self.destination, new)
        return [Edit(self.start, self.end, self.codec.format(new))]


_NO_WORDS: Mapping[int, bytes] = {4: b"", 6: b""}


@attrs.frozen
class SplitPlace:
    """A host as text in one place and its port in another, as in SDP and RTSP.

    Attributes:
        host_span: where the host begins and ends, and the word before it if there is one.
        port_span: where the port begins and ends.
        destination: the address.
        words: what stands before the host, by IP version: `IP4 ` and `IP6 ` in SDP.
    """

    host_span: tuple[int, int]
    port_span: tuple[int, int]
    destination: Endpoint
    words: Mapping[int, bytes] = attrs.field(default=_NO_WORDS, eq=False)

    @classmethod
    def at(
        cls,
        message: bytes,
        host_span: tuple[int, int],
        port_span: tuple[int, int],
        words: Mapping[int, bytes] = _NO_WORDS,
    ) -> SplitPlace:
        """Return the place of the address in these two.

        Raises:
            EndpointError: there is none.
        """
        text, port = message[slice(*host_span)], parse_port(message[slice(*port_span)])
        for version, word in words.items():
            if text.startswith(word):
                endpoint = Endpoint(parse_host(text[len(word) :]), port)
                if endpoint.version == version:
                    return cls(host_span, port_span, endpoint, words)
        raise EndpointError(f"{text!r:.60} is not a host")

    def edits(self, new: Destination, *, same_family: bool = False) -> list[Edit]:
        """Return the edits that put another address there."""
        if not isinstance(new, Endpoint):
            raise EndpointError(f"{new} has to be resolved before it can be spelled so")
        if same_family:
            _check_family(self.destination, new)
        if new.version not in self.words:
            raise FamilyError(f"{new} has no word that could stand before it here")
        host = self.words[new.version] + format_host(new.host)
        port = b"%d" % checked_port(new.port)
        return [Edit(*self.host_span, host), Edit(*self.port_span, port)]


def find_six_numbers(text: bytes) -> Place[Endpoint] | None:
    """Return the one address in a text that is spelled in six numbers (RFC 959, FTP's 227).

    They may stand anywhere, in parentheses or not, with blanks around their commas (RFC 1123
    section 4.1.2.6), but the text must leave no doubt: None with two addresses, with a list of
    more than six numbers, and where they are part of something longer.
    """
    lists = [found for found in _NUMBER_LIST.finditer(text) if found.group().count(b",") >= 5]
    if len(lists) != 1:
        return None
    start, end = lists[0].span()
    if _NOT_BEFORE.search(text, 0, start) or _NOT_AFTER.match(text, end):
        return None
    with contextlib.suppress(EndpointError):
        return Place(
            start, end, _SIX_NUMBERS.parse(lists[0].group().replace(b" ", b"")), _SIX_NUMBERS
        )
    return None


def find_host_ports(text: bytes) -> Iterator[Place[Destination]]:
    """Yield the `10.0.0.8:1553` and `[2001:db8::1]:80` in a text; names are not looked for."""
    codec = HostPort(names=False)
    for found in _LITERAL.finditer(text):
        with contextlib.suppress(EndpointError):
            yield Place.at(text, *found.span(), codec)


def find_urls(text: bytes, default_ports: Mapping[str, int]) -> Iterator[Place[Destination]]:
    """Yield where the URLs in a text name their host, and their port if they have one.

    Args:
        text: where to look.
        default_ports: the ports that are meant by schemes; others are not looked for. With
            `{"sip": 5060}` also `sip:ann@192.0.2.1` is a URL.
    """
    for found in _AUTHORITY.finditer(text):
        port = default_ports.get(found.group(1).decode("ascii").lower())
        if port is not None:
            end = found.end(2) if found.group(3) is None else found.end(3)
            # A port that stands there stays there, even if it is the default one.
            codec = HostPort(default_port=port if found.group(3) is None else None)
            with contextlib.suppress(EndpointError):
                yield Place.at(text, found.start(2), end, codec)


def counted_host(message: bytes, start: int, codec: CountedHost) -> Place[Destination]:
    """Return the place of a counted host and its port that begin at *start*.

    Raises:
        EndpointError: there is none.
    """
    return Place.at(message, start, start + codec.size(message, start), codec)


def all_edits(
    places: Iterable[AnyPlace],
    new: Mapping[Destination, Destination],
    *,
    same_family: bool = False,
) -> list[Edit]:
    """Return the edits for every place whose address is one of those to be replaced.

    Args:
        places: what was found.
        new: what comes instead of which address; others stay.
        same_family: whether an address must be replaced by one of its own family.

    Raises:
        EndpointError: an address cannot be spelled in its place.
    """
    return [
        edit
        for place in places
        if place.destination in new
        for edit in place.edits(new[place.destination], same_family=same_family)
    ]
