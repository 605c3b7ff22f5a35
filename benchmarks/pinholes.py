"""Opens pinholes at a rate, and looks what is left of them.

``python -m benchmarks.pinholes NETWORK CLIENT SERVER LOG seconds=N rate=N``, in the namespace of
the proxy. CLIENT is where the client waits, SERVER what the primary connection leads to; both greet
whoever comes. A third of the pinholes is used by a process in the server's namespace as soon as
the call has returned, a third is cancelled unused, and a third is left to expire.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from benchmarks.backends import GREETING
from benchmarks.processes import inside
from fwproxy import Config, Connection, Endpoint, Firewall, IpFilter, SecondaryFlags, Session
from fwproxy.config.config import DatapathConfig, Limits, LogConfig, SecondaryConfig
from fwproxy.config.listeners import ListenerConfig
from fwproxy.log import configure
from fwproxy.protocol import FTP_DATA
from fwproxy.service.run import run
from tests.system.ends import connect
from tests.system.namespaces import END_NUMBER, PREFIXES, PROXY_NUMBER, Side

EXPIRY = 2.0
"""Seconds until an unused pinhole expires."""
PATIENCE, TRIES = 10.0, 20
PLENTY = 1_000_000


def knock() -> None:
    """For each line HOST PORT connect and be greeted; say how that went."""
    for line in sys.stdin:
        host, port = line.split()
        try:
            with socket.create_connection((host, int(port)), timeout=5.0) as sock:
                answer = "ok" if sock.recv(256) == GREETING else "not greeted"
        except OSError as error:
            answer = str(error)
        print(answer, flush=True)


class Knocker:
    """A process in the server's namespace that comes to pinholes.

    Attributes:
        count: how often it was sent.
        greeted: how often it got through.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.count = 0
        self.greeted = 0

    def knock(self, at: Endpoint) -> None:
        self.count += 1
        assert self._process.stdin is not None
        self._process.stdin.write(f"{at.host} {at.port}\n".encode())

    async def hear(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.greeted += line == b"ok\n"


class Churn:
    """Pinholes one after the other.

    Attributes:
        times: seconds of each call.
    """

    def __init__(self, session: Session, client: Endpoint, server: str, knocker: Knocker) -> None:
        self._session = session
        self._client = client
        self._peers = IpFilter.only(server)
        self._knocker = knocker
        self.times: list[float] = []

    async def one(self, number: int) -> None:
        started = time.perf_counter()
        (connection,) = await self._session.bind_for_client(
            [self._client],
            flags=SecondaryFlags.TIMEOUT,
            protocol=FTP_DATA,
            ip_filter=self._peers,
        )
        self.times.append(time.perf_counter() - started)
        self._use(number, connection)

    def _use(self, number: int, connection: Connection) -> None:
        if connection.choice.path.value != "kernel":
            raise RuntimeError(f"not in the kernel: {connection.choice.reason}")
        if number % 3 == 0:
            assert connection.proxy_address is not None
            self._knocker.knock(connection.proxy_address)
        elif number % 3 == 1:
            connection.kill()

    async def last(self, seconds: float, rate: float) -> float:
        """Open so many a second; return the rate that there was."""
        began = time.perf_counter()
        for number in range(int(seconds * rate)):
            late = time.perf_counter() - began - number / rate
            await asyncio.sleep(max(-late, 0))
            await self.one(number)
        return len(self.times) / (time.perf_counter() - began)


def left(files: int) -> dict[str, float]:
    """What there is in this namespace, and which files more than before in this process."""
    ruleset = subprocess.run(["nft", "-j", "list", "ruleset"], capture_output=True, check=True)
    entries = json.loads(ruleset.stdout)["nftables"]
    sets = [entry.get("map") or entry.get("set") for entry in entries]
    mark = str(DatapathConfig().kernel_mark)
    flows = subprocess.run(["conntrack", "-L", "--mark", mark], capture_output=True, check=True)
    return {
        "elements": sum(len(each.get("elem", [])) for each in sets if each),
        "files": open_files() - files,
        "flows": len(flows.stdout.splitlines()),
    }


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def settled(files: int) -> dict[str, float]:
    """What is left, once it is nothing or there was time enough for that."""
    for _ in range(TRIES):
        found = left(files)
        if not any(found.values()):
            break
        await asyncio.sleep(PATIENCE / TRIES)
    return found


@asynccontextmanager
async def knocking(namespace: str) -> AsyncIterator[Knocker]:
    """Run the process that comes to pinholes; wait for all of its answers at the end."""
    process = await asyncio.create_subprocess_exec(
        *inside(namespace, [sys.executable, "-m", "benchmarks.pinholes", "knock"]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        knocker = Knocker(process)
        hearing = asyncio.ensure_future(knocker.hear())
        yield knocker
        assert process.stdin is not None
        process.stdin.close()
        await hearing
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def churned(
    firewall: Firewall, network: str, client: Endpoint, seconds: float, rate: float
) -> dict[str, float]:
    """Let a client come, and open pinholes in its session."""
    host, port = firewall.listeners["ftp"].address.sockaddr
    with connect(host, port, f"{network}-{Side.CLIENT}") as primary:
        await asyncio.to_thread(primary.recv, 100)  # greeted: now there is a session
        (session,) = firewall.sessions
        server = f"{PREFIXES[Side.SERVER][4]}{END_NUMBER}"
        async with knocking(f"{network}-{Side.SERVER}") as knocker:
            churn = Churn(session, client, server, knocker)
            await churn.last(1, 100)  # the first calls cost more
            await asyncio.sleep(EXPIRY + 1)
            churn.times.clear()
            files, computed = open_files(), time.process_time()
            reached = await churn.last(seconds, rate)
            computed = time.process_time() - computed
            await asyncio.sleep(EXPIRY)
            remains = await settled(files)
        ranked = sorted(churn.times)
        return {
            "p50": 1e3 * ranked[len(ranked) // 2],
            "p99": 1e3 * ranked[len(ranked) * 99 // 100],
            "rate": reached,
            "cpu": 1e3 * computed / len(ranked),
            "failed": knocker.count - knocker.greeted,
            **remains,
        }


def main() -> None:
    if sys.argv[1] == "knock":
        knock()
        return
    network, client, server, log, *settings = sys.argv[1:]
    words = {key: float(value) for key, _, value in (item.partition("=") for item in settings)}
    upstream = Endpoint.parse(server)
    listener = ListenerConfig(
        name="ftp",
        bind=Endpoint(f"{PREFIXES[Side.CLIENT][4]}{PROXY_NUMBER}", 21),
        protocol="ftp",
        upstream=upstream,
        use_filters=(),
    )
    config = Config(
        [listener],
        secondary=SecondaryConfig(timeout=EXPIRY),
        datapath=DatapathConfig(kernel="require"),
        limits=Limits(max_permissions_per_session=PLENTY, max_connections_per_session=PLENTY),
        log=LogConfig(format="json"),
    )
    with Path(log).open("wb") as stream:
        configure(config.log, stream)
        run(config, started=lambda firewall: _start(firewall, network, client, words))


def _start(firewall: Firewall, network: str, client: str, words: dict[str, float]) -> None:
    async def work() -> None:
        figures: dict[str, float] | dict[str, str]
        try:
            figures = await churned(firewall, network, Endpoint.parse(client), **words)
        except Exception as error:  # noqa: BLE001 - told to the benchmark, which reports it
            figures = {"error": repr(error)}
        print(json.dumps(figures), flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

    running.append(asyncio.ensure_future(work()))


running: list[asyncio.Future[None]] = []


if __name__ == "__main__":
    main()
