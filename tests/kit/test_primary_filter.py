"""The filter that only attaches a data filter, with each kind of listener."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
from rig import open_world

from fwproxy import DataFilter, Handled, ListenerKind, Priority
from fwproxy.address import parse_destination
from fwproxy.kit.line_filter import LineFilter
from fwproxy.kit.primary_filter import PrimaryFilter


class Marking(DataFilter):
    """Puts a mark around what passes, so that the order of a chain shows."""

    def data_from_client(self, data: bytes) -> Handled:
        settings: Any = self.context
        mark = settings.mark.encode()
        self.to_server.send(mark + data + mark)
        return None


@attrs.frozen
class MarkSettings:
    mark: str = "m"


class MarkFilter(PrimaryFilter):
    name = "mark"
    settings_class: ClassVar[type[Any]] = MarkSettings
    data_filter = Marking


@attrs.frozen
class FirstSettings:
    mark: str = "1"


class FirstFilter(MarkFilter):
    name = "first"
    settings_class = FirstSettings
    priority = Priority.NAT


async def test_every_primary_connection_gets_one_of_its_own() -> None:
    async with open_world(MarkFilter) as world:
        for _ in range(2):
            primary = await world.primary()
            assert primary.connection.data_path == "user"
            await primary.client.send(b"hello")
            assert await primary.server.read(7) == b"mhellom"


async def test_it_stands_where_its_priority_says_and_knows_its_settings() -> None:
    async with open_world(MarkFilter, FirstFilter) as world:
        primary = await world.primary()
        await primary.client.send(b"x")
        assert await primary.server.read(5) == b"m1x1m"


class Naming(LineFilter):
    """The client's first line names the server."""

    is_connected = False

    async def line_from_client(self, line: bytes) -> bytes | None:
        if self.is_connected:
            return line
        await self.connection.connect(parse_destination(line.decode()))
        self.is_connected = True
        return None


class NamingFilter(PrimaryFilter):
    name = "naming"
    data_filter = Naming


async def test_on_a_gateway_it_is_there_before_the_server() -> None:
    async with open_world(NamingFilter, kind=ListenerKind.GATEWAY) as world:
        client = await world.connect()
        await client.send(f"{world.upstream.address}\r\n".encode())
        server = await world.accept()
        await client.send(b"hello\r\n")
        assert await server.read(7) == b"hello\r\n"
