"""Data connections that the kernel carries, with real clients, servers and packets."""

from __future__ import annotations

import pytest

from .conftest import SkipIfMissing
from .ftp_clients import Curl
from .ftp_servers import VSFTPD
from .kernel_gateway import (
    forwarding_network,
    kernel_proxy,
    tables,
)
from .matrix import Workspace
from .namespaces import Side
from .terms import Family, Mode


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("family", [4, 6])
def test_a_file_is_fetched_through_the_kernel(
    workspace: Workspace,
    skip_if_missing: SkipIfMissing,
    needs_network: None,
    family: Family,
    mode: Mode,
) -> None:
    """Conntrack tells of the establishment and the end, with byte counts."""
    skip_if_missing(VSFTPD, Curl)
    with forwarding_network() as net:
        address, namespace = net.address(Side.SERVER, family), net.namespace(Side.SERVER)
        with (
            VSFTPD.start(workspace.samples.root, address, namespace) as server,
            kernel_proxy(net, server, family) as proxy,
        ):
            client = Curl(mode=mode, namespace=net.namespace(Side.CLIENT))
            local = workspace.local / "medium.bin"
            client.fetch(proxy.target("ftp", server), "medium.bin", local)
            workspace.compare("medium.bin", local)
            (line,) = proxy.await_log("connection closed", protocol="ftp-data")
            assert line["path"] == "kernel"
            proxy.finish()
        assert not tables(net)
