"""A filter that shouts, and the calls that the tests of the scripted session make."""

from __future__ import annotations

import asyncio
from typing import Any

from fwproxy import DataFilter, Endpoint, Handled, ProtocolDefinition, SecondaryFlags
from fwproxy.kit.primary_filter import PrimaryFilter
from fwproxy.testing import CLIENT, SERVER, Script

DATA = ProtocolDefinition("scripted-data")
OWN = Endpoint(CLIENT[4], 5000)
SERVER_DATA = Endpoint(SERVER[4], 7000)
F = SecondaryFlags


class Shout(DataFilter):
    """Makes capitals of what the client says, later if it ends with a question mark."""

    def data_from_client(self, data: bytes) -> Handled:
        if data == b"fail":
            raise ValueError("the client said so")
        if data.endswith(b"?"):
            return self._later(data)
        self.to_server.send(data.upper())
        return None

    async def _later(self, data: bytes) -> None:
        await asyncio.sleep(5)
        self.to_server.send(data.upper())


class ShoutFilter(PrimaryFilter):
    name = "shout"
    data_filter = Shout


def bind(script: Script, **settings: Any) -> Any:
    settings.setdefault("protocol", DATA)
    (connection,) = script.run(script.session.bind_for_client([OWN], **settings))
    return connection


def redirect(script: Script, **settings: Any) -> Any:
    settings.setdefault("protocol", DATA)
    return script.run(script.session.redirect_connections([SERVER_DATA], **settings))
