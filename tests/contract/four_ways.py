"""The four ways to open a secondary connection, for what must hold of each."""

import pytest
from calls import bind, redirect

from fwproxy import Transport
from fwproxy.events import AcceptedConnection, BindUdp, ConnectTcp, UdpDestination

UDP = Transport.UDP


class Way:
    """One way to open a secondary connection, and what its parts are called."""

    def __init__(self, name):
        self.name = name
        self.is_tcp = not name.endswith("udp")
        self.is_bind = name.startswith("bind")
        self.event = {
            "bind": AcceptedConnection,
            "redirect": ConnectTcp,
            "bind-udp": BindUdp,
            "redirect-udp": UdpDestination,
        }[name]

    def __repr__(self):
        return self.name

    async def call(self, world, primary, **settings):
        """Open it; return the permission with the client's and the server's place."""
        if self.is_tcp:
            far = world.listen()
        else:
            far = world.datagrams()
            settings["transport"] = UDP
        if self.is_bind:
            (connection,) = await bind(primary, far.address, **settings)
            return Opened(self, world, connection.permission, far)
        made = await redirect(primary, far.address, **settings)
        return Opened(self, world, made.actions[0], far)


class Opened:
    def __init__(self, way, world, permission, far):
        self.way, self.world, self.permission, self.far = way, world, permission, far

    async def carries(self, data):
        """Send from the side that comes first; return what arrives at the other."""
        address = self.permission.proxy_address
        if not self.way.is_tcp:
            self.world.datagrams().send(data, address)
            return (await self.far.receive())[0]
        comer = await self.world.connect(address)
        peer = await self.world.accept(self.far)
        await comer.send(data)
        comer.half_close()
        return await peer.read_all()


WAYS = [Way(name) for name in ("bind", "redirect", "bind-udp", "redirect-udp")]
EACH_WAY = pytest.mark.parametrize("way", WAYS, ids=repr)
