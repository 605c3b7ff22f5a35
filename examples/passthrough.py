"""The smallest embedding: a TCP port forward.

    python examples/passthrough.py                                 # 127.0.0.1:8080 to 127.0.0.1:80
    python examples/passthrough.py 127.0.0.1:8443 example.org:443

Each connection that has ended is a line on standard error. Ctrl-C ends the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from fwproxy import Config, Endpoint, Firewall, ListenerConfig
from fwproxy.address import parse_destination
from fwproxy.log import configure


async def main(listen: str = "127.0.0.1:8080", upstream: str = "127.0.0.1:80") -> None:
    """Forward until the program is interrupted."""
    listener = ListenerConfig(
        name="passthrough",
        bind=Endpoint.parse(listen),
        protocol="tcp",
        upstream=parse_destination(upstream),
    )
    config = Config([listener])
    configure(config.log, sys.stderr)
    async with Firewall(config):
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
