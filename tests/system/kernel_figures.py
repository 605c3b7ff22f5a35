"""Figures of the kernel path beside the kernel's own FTP helper and the spliced path.

As root: python -m tests.system.kernel_figures
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .ends import BLOCK_SIZE, ScriptedClient, active_command, connect
from .ftp_servers import VSFTPD
from .gateways import Gateway, Way, gateway
from .matrix import Samples
from .namespaces import Side
from .terms import Mode

BULK = 256 << 20
ROUNDS = 5
SESSIONS = 100


def login(found: Gateway) -> ScriptedClient:
    """A client behind a gateway."""
    client = ScriptedClient(found.target(VSFTPD, 4), found.net.namespace(Side.CLIENT))
    client.login()
    return client


def fetch(client: ScriptedClient, mode: Mode, name: str) -> int:
    """Fetch a file and count its bytes."""
    with contextlib.ExitStack() as stack:
        if mode is Mode.PASSIVE:
            data = stack.enter_context(connect(*client.passive(), client.namespace))
            client.send(f"RETR {name}\r\n".encode())
        else:
            listener = stack.enter_context(client.listen())
            client.code(active_command(listener))
            client.send(f"RETR {name}\r\n".encode())
            data = stack.enter_context(listener.accept()[0])
        buffer, count = bytearray(BLOCK_SIZE), 0
        while size := data.recv_into(buffer):
            count += size
    assert client.codes(2) == [150, 226]
    return count


def bulk(found: Gateway, mode: Mode) -> tuple[float, float]:
    """MB/s of one large file, and the seconds of the proxy's CPU that it took."""
    with login(found) as client:
        computed = found.proxy.cpu_seconds() if found.proxy else 0.0
        started = time.perf_counter()
        assert fetch(client, mode, "bulk.bin") == BULK
        seconds = time.perf_counter() - started
        computed = (found.proxy.cpu_seconds() if found.proxy else 0.0) - computed
    return BULK / seconds / 1e6, computed


def sessions(found: Gateway) -> float:
    """Sessions a second, one after the other: log in, fetch a small file passively, quit."""
    started = time.perf_counter()
    for _ in range(SESSIONS):
        with login(found) as client:
            fetch(client, Mode.PASSIVE, "one.bin")
            assert client.code("QUIT") == 221
    return SESSIONS / (time.perf_counter() - started)


def measure(ways: list[Gateway]) -> Iterator[str]:
    """Yield a line for each figure: the medians of rounds in which all take turns."""
    for mode in Mode:
        rounds = [[bulk(each, mode) for each in ways] for _ in range(ROUNDS)]
        for number, each in enumerate(ways):
            rates = [one[number][0] for one in rounds]
            computed = statistics.median(one[number][1] for one in rounds) * (1 << 30) / BULK
            yield (
                f"{mode} RETR, {each.way}: {statistics.median(rates):.0f} MB/s "
                f"({min(rates):.0f} to {max(rates):.0f}), {computed:.3f} s of CPU per GiB"
            )
    rounds_of_sessions = [[sessions(each) for each in ways] for _ in range(ROUNDS)]
    for number, each in enumerate(ways):
        found = statistics.median(one[number] for one in rounds_of_sessions)
        yield f"sessions, {each.way}: {found:.0f}/s"


def main() -> None:
    """Print all figures."""
    with tempfile.TemporaryDirectory(prefix="fwproxy-figures-") as name:
        Path(name).chmod(0o755)
        samples = Samples.create(Path(name))
        with samples.root.joinpath("bulk.bin").open("wb") as file:
            file.truncate(BULK)
        samples.root.joinpath("bulk.bin").chmod(0o644)
        with contextlib.ExitStack() as stack:
            ways = [stack.enter_context(gateway(way, samples)) for way in Way]
            for line in measure(ways):
                print(line, flush=True)  # noqa: T201 - what it is for


if __name__ == "__main__":
    main()
