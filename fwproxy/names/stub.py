"""Names asked of DNS servers, which say how long an answer holds (RFC 1034 section 5.3.1)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.inet
import dns.name
import dns.resolver
import dns.reversename

from fwproxy.address import HostName
from fwproxy.config.resolver import DNS_PORT, ResolverConfig
from fwproxy.errors import InvalidArgumentError, NameNotFoundError
from fwproxy.names.files import HOSTS, HostsFile, Watched
from fwproxy.names.order import in_order
from fwproxy.names.resolver import Answer
from fwproxy.names.server import Server

RESOLV_CONF = Path("/etc/resolv.conf")
MAX_RECORDS = 32
"""Addresses of each family of one name that are used."""

LATE_ATTEMPTS = 2
"""For how many attempts the addresses of one family wait for those of the other."""

_FAMILIES = ("A", "AAAA")
_LOOPBACK = ("::1", "127.0.0.1")


@attrs.frozen(slots=True)
class _Found:
    """What has come of one question.

    Attributes:
        data: the records as text; none where there are none.
        until: when they have to be asked for again.
        problem: why there are none.
        is_certain: whether that was said by a server, and not for want of one that answers.
    """

    data: tuple[str, ...] = ()
    until: float = math.inf
    problem: str = ""
    is_certain: bool = True


class DnsNames:
    """Asks DNS servers, after /etc/hosts.

    For a name there are two questions at a time, one for each family. Addresses of the one family
    wait for those of the other so long that one more attempt can be made; without them they are
    used, and not remembered. A question ends with its answer, its time-out or the wait for it.

    Args:
        config: whom to ask, and for how long.
        now: the clock that answers are dated by.
        hosts: names that are known without asking.
        resolv_conf: the servers, where *config* names none; read again when it has changed.
        order: the order in which to try addresses.
    """

    def __init__(
        self,
        config: ResolverConfig,
        now: Callable[[], float],
        *,
        hosts: Path = HOSTS,
        resolv_conf: Path = RESOLV_CONF,
        order: Callable[[Iterable[str]], tuple[str, ...]] = in_order,
    ) -> None:
        self._config = config
        self._now = now
        self._hosts = HostsFile(hosts)
        self._resolv_conf = Watched(resolv_conf)
        self._order = order
        self._resolver: dns.asyncresolver.Resolver | None = None
        self._backend: Any = dns.asyncbackend.get_backend("asyncio")  # whatever imports it makes
        self._questions: set[asyncio.Task[_Found]] = set()
        self._is_closed = False

    async def find(self, name: str) -> Answer:
        """Return the addresses of a name, in the order to try them.

        What /etc/hosts says holds until it changes, and is not for others to remember.

        Raises:
            NameNotFoundError: it has none, or no server has said so in time.
        """
        known = self._hosts.addresses(name) or _loopback(name)
        if known:
            return Answer(self._order(known), self._now())
        found = await self._together(*((name, kind) for kind in _FAMILIES))
        hosts = dict.fromkeys(host for each in found for host in each.data)
        if not hosts:
            raise NameNotFoundError(f"{name} does not resolve: {_why(found)}")
        is_whole = len(found) == len(_FAMILIES) and all(each.is_certain for each in found)
        until = min(each.until for each in found) if is_whole else self._now()
        return Answer(self._order(hosts), until)

    async def name_of(self, host: str) -> str:
        """Return the name of an address.

        Raises:
            NameNotFoundError: it has none, or no server has said so in time.
        """
        known = self._hosts.name_of(host)
        if known is not None:
            return known
        found = await self._together((dns.reversename.from_address(host), "PTR"))
        names = [name for each in found for name in each.data]
        if not names:
            raise NameNotFoundError(f"{host} has no name: {_why(found)}")
        try:
            return HostName(names[0].rstrip(".")).host
        except InvalidArgumentError as error:
            raise NameNotFoundError(f"{host} has no name: {error}") from error

    def close(self) -> None:
        """Give up what is being asked, and ask no more."""
        self._is_closed = True
        for question in self._questions:
            question.cancel()

    async def _together(self, *asked: tuple[str | dns.name.Name, str]) -> list[_Found]:
        """Return what has come of each question, but for one that keeps addresses waiting."""
        if self._is_closed:
            return []
        async with asyncio.TaskGroup() as group:
            questions = [group.create_task(self._ask(name, kind)) for name, kind in asked]
            for question in questions:
                self._questions.add(question)
                question.add_done_callback(self._questions.discard)
            done, late = await asyncio.wait(questions, return_when=asyncio.FIRST_COMPLETED)
            if late and any(not each.cancelled() and each.result().data for each in done):
                _, late = await asyncio.wait(
                    late, timeout=LATE_ATTEMPTS * self._config.attempt_timeout
                )
                for question in late:
                    question.cancel()
        return [each.result() for each in questions if not each.cancelled()]

    async def _ask(self, name: str | dns.name.Name, kind: str) -> _Found:
        timeout = self._config.timeout
        try:
            async with asyncio.timeout(timeout):
                answer = await self._servers().resolve(
                    name,
                    kind,
                    search=not self._config.servers,
                    raise_on_no_answer=False,
                    lifetime=math.inf,  # it would go by a clock that may be set
                    backend=self._backend,
                )
        except TimeoutError:
            return _Found(problem=f"no answer within {timeout:g} seconds", is_certain=False)
        except dns.resolver.NXDOMAIN as error:
            return _Found(problem=str(error))
        except (dns.exception.DNSException, ValueError) as error:  # the latter: no name in DNS
            return _Found(problem=str(error), is_certain=False)
        if answer.rrset is None:
            return _Found(problem="it exists, but has no such record")
        ttl = min(answer.chaining_result.minimum_ttl, self._config.max_ttl)
        records = list(answer.rrset)[:MAX_RECORDS]
        return _Found(tuple(record.to_text() for record in records), self._now() + ttl)

    def _servers(self) -> dns.asyncresolver.Resolver:
        """Return whom to ask now."""
        own = self._config.servers
        if self._resolver is None or (not own and self._resolv_conf.has_changed()):
            self._resolver = None  # until the file says something again
            made = dns.asyncresolver.Resolver(str(self._resolv_conf.path), configure=not own)
            made.timeout = self._config.attempt_timeout
            made.nameservers = [Server(each.host, each.port) for each in own] or [
                Server(each, DNS_PORT)
                for each in made.nameservers
                if isinstance(each, str) and dns.inet.is_address(each)
            ]
            self._resolver = made
        return self._resolver


def _loopback(name: str) -> tuple[str, ...]:
    """Return the addresses of `localhost`, which no server is asked for (RFC 6761 section 6.3)."""
    return _LOOPBACK if name.rstrip(".").lower().rpartition(".")[2] == "localhost" else ()


def _why(found: Iterable[_Found]) -> str:
    """Say why there is nothing; what a server has not said is the better reason."""
    problems = sorted(found, key=lambda each: each.is_certain)
    return problems[0].problem if problems else "the question was given up"
