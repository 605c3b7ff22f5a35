"""Data filters that put their name around all that passes, at once or later."""

import asyncio

from fwproxy import DataFilter


class Tag(DataFilter):
    """Puts its name around every piece, and before the end of the stream."""

    def __init__(self, name: bytes = b"t") -> None:
        self.name = name

    def data_from_client(self, data):
        self.to_server.send(b"%b(%b)" % (self.name, data))

    def data_from_server(self, data):
        self.to_client.send(b"%b(%b)" % (self.name, data))

    def end_from_client(self):
        self.to_server.send(b"%b." % self.name)
        self.to_server.half_close()

    def end_from_server(self):
        self.to_client.send(b"%b." % self.name)
        self.to_client.half_close()


class LaterTag(Tag):
    """The same, but it takes its time over everything."""

    async def data_from_client(self, data):
        await asyncio.sleep(0)
        super().data_from_client(data)

    async def data_from_server(self, data):
        await asyncio.sleep(0.001)
        super().data_from_server(data)

    async def end_from_client(self):
        await asyncio.sleep(0)
        super().end_from_client()

    async def end_from_server(self):
        await asyncio.sleep(0)
        super().end_from_server()
