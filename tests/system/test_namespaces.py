"""Proves the networks of namespaces: who reaches whom, real programs in them, and their removal."""

from __future__ import annotations

import time

import pytest

from .client_kind import Client
from .conftest import SkipIfMissing
from .ftp_clients import AioFTPClient, Curl, Ftplib
from .ftp_servers import VSFTPD, PyFTPdLib
from .matrix import Samples, Workspace, exercise_resuming
from .namespaces import NAMES, Network, Side, network, reach
from .server_kind import ServerKind
from .terms import Family, Mode

UNREACHABLE = "Network is unreachable"


@pytest.mark.parametrize("family", [4, 6])
def test_client_and_server_have_no_route_to_each_other(net: Network, family: Family) -> None:
    started = time.monotonic()
    for here, there in ((Side.CLIENT, Side.SERVER), (Side.SERVER, Side.CLIENT)):
        assert UNREACHABLE in reach(net, here, net.address(there, family), 21)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("family", [4, 6])
def test_proxy_does_not_forward_what_is_routed_to_it(
    family: Family, samples: Samples, needs_network: None
) -> None:
    with network() as net:
        net.add_default_route(Side.CLIENT)
        net.add_default_route(Side.SERVER)
        address = net.address(Side.SERVER, family)
        with PyFTPdLib.start(samples.root, address, net.namespace(Side.SERVER)) as server:
            assert reach(net, Side.PROXY, address, server.port) == "connected"
            assert "timed out" in reach(net, Side.CLIENT, address, server.port)


@pytest.mark.parametrize("link", [Side.CLIENT, Side.SERVER])
@pytest.mark.parametrize("family", [4, 6])
def test_stranger_is_on_one_link_only(link: Side, family: Family, needs_network: None) -> None:
    other = Side.SERVER if link is Side.CLIENT else Side.CLIENT
    with network(stranger_link=link) as net:
        refused = reach(net, Side.STRANGER, net.address(link, family), 21)
        assert "refused" in refused
        assert "refused" in reach(net, Side.STRANGER, net.proxy_address(link, family), 21)
        assert UNREACHABLE in reach(net, Side.STRANGER, net.address(other, family), 21)
        assert "refused" in reach(net, Side.CLIENT, net.proxy_address(Side.CLIENT, family), 21)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("server_kind", [VSFTPD, PyFTPdLib])
@pytest.mark.parametrize(
    ("client_kind", "mode"),
    [(kind, mode) for kind in (Curl, Ftplib, AioFTPClient) for mode in sorted(kind.modes)],
)
def test_real_programs_work_inside(
    net: Network,
    workspace: Workspace,
    skip_if_missing: SkipIfMissing,
    server_kind: type[ServerKind],
    client_kind: type[Client],
    mode: Mode,
    family: Family,
) -> None:
    skip_if_missing(server_kind, client_kind)
    client = client_kind(mode=mode, namespace=net.namespace(Side.PROXY))
    address = net.address(Side.SERVER, family)
    namespace = net.namespace(Side.SERVER)
    with server_kind.start(workspace.samples.root, address, namespace) as server:
        exercise_resuming(client, server.target, workspace)


def test_all_is_removed_with_what_runs_in_it_also_after_a_failure(needs_network: None) -> None:
    class MishapError(Exception):
        pass

    def fail() -> None:
        with network(Side.CLIENT) as net:
            names.extend(net.namespace(side) for side in net.sides)
            net.run(Side.CLIENT, ["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &"])
            raise MishapError

    names: list[str] = []
    with pytest.raises(MishapError):
        fail()
    assert names
    assert not [name for name in names if NAMES.joinpath(name).exists()]
