"""A gateway's client gets the reply to its USER, never the greeting of the server it has named.

The server here is a quick one in a thread of its own, so that its greeting is often there before
the filter has heard of the connection.
"""

from __future__ import annotations

import asyncio

from ftp_ends import FtpClient, ftp_config
from rig import Peer

from fwproxy import Endpoint, Firewall, ListenerKind
from fwproxy.demo import DemoServer

LOGINS = 200
AT_A_TIME = 20


async def first_reply(gateway: Endpoint, server: Endpoint) -> bytes:
    """Log in, and return the first reply to that."""
    client = FtpClient(await Peer.connect(gateway))
    try:
        assert (await client.reply()).startswith(b"220 FTP gateway")
        return await client.ask(f"USER anonymous@{server}")
    finally:
        client.close()


async def test_the_first_reply_to_a_login_is_the_servers_to_user() -> None:
    with DemoServer() as server:
        async with Firewall(ftp_config(None, kind=ListenerKind.GATEWAY)) as firewall:
            gateway = firewall.listeners["ftp"].address
            replies: list[bytes] = []
            for _ in range(LOGINS // AT_A_TIME):
                logins = (first_reply(gateway, server.address) for _ in range(AT_A_TIME))
                replies += await asyncio.gather(*logins)
            assert len(replies) == LOGINS
            assert {reply[:4] for reply in replies} == {b"331 "}
