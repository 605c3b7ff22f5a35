"""Networks where nothing but the proxy leads from the clients to the servers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import attrs
import pytest

from .client_kind import Client, Commands
from .ftp_clients import Curl, Ftplib, Lftp, Ncftp, Tnftp, Wget
from .ftp_servers import VSFTPD, PureFTPd
from .matrix import Combination, Samples, Workspace, combinations
from .namespaces import PREFIX_LENGTHS, Network, Side
from .proxy import Proxy
from .server_kind import FTPServer, ServerKind
from .terms import Family

Servers: TypeAlias = dict[tuple[type[ServerKind], Family], FTPServer]

FTP_PORT = 21
CLIENTS: dict[type[ServerKind], set[type[Client]]] = {
    VSFTPD: {Curl, Lftp, Tnftp, Ncftp, Wget, Ftplib},
    PureFTPd: {Curl, Ftplib},
}
# Where IPv4 meets IPv6. All others do it on loopback, in test_through_proxy.
TRANSLATED: set[type[Client]] = {Curl, Lftp, Ncftp, Wget}


def cases(families: tuple[tuple[Family, Family], ...]) -> list[Combination]:
    """Several clients with one server and two with another, each with its own commands."""
    return [
        each
        for each in combinations(families, ())
        if each.client in CLIENTS.get(each.server, ())
        and each.commands is Commands.DEFAULT
        and (
            each.client_family == each.server_family
            or (each.client in TRANSLATED and each.server is VSFTPD)
        )
    ]


@attrs.frozen
class Route:
    """A network with its servers, and the proxy between them and the clients."""

    net: Network
    servers: Servers
    proxy: Proxy

    def server(self, case: Combination) -> FTPServer:
        """The server of a case."""
        return self.servers[case.server, case.server_family]

    def client(self, case: Combination) -> Client:
        """The client of a case, where it belongs."""
        return case.build_client(self.net.namespace(Side.CLIENT))

    def check_transfers(self, start: int, count: int, path: str = "splice") -> None:
        """Make sure that since log line `start` so many have gone through the proxy, and well."""
        self.proxy.await_rest()
        lines = self.proxy.lines()[start:]
        assert not [line for line in lines if line["level"] not in {"debug", "info"}]
        data = self.proxy.logged("connection closed", start, protocol="ftp-data", path=path)
        assert len(data) == count


@contextlib.contextmanager
def running_servers(
    net: Network, samples: Samples, kinds: Mapping[type[ServerKind], int]
) -> Iterator[Servers]:
    """Run servers of these kinds on these ports, for either IP version."""
    namespace = net.namespace(Side.SERVER)
    with contextlib.ExitStack() as stack:
        yield {
            (kind, family): stack.enter_context(
                kind.start(samples.root, net.address(Side.SERVER, family), namespace, port)
            )
            for kind, port in kinds.items()
            if not kind.missing()
            for family in PREFIX_LENGTHS
        }


def check_no_other_way(client: Client, server: FTPServer, workspace: Workspace) -> None:
    """Make sure that the client does not reach the server without the proxy."""
    with pytest.raises(AssertionError):
        client.fetch(server.target, "one.bin", workspace.local / "one.bin")
