"""What the proxy's TCP sockets have in common, on the real kernel."""

import errno
import os
import socket

import pytest
from rig import HOST, closing

from fwproxy.address import Endpoint, Transport
from fwproxy.ports.sockets import open_port, set_up_stream

CONGESTION = socket.IPPROTO_TCP, socket.TCP_CONGESTION


class Noting(socket.socket):
    """A socket that remembers what was set."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.options = {}

    def setsockopt(self, level, option, *value):
        super().setsockopt(level, option, *value)
        self.options[level, option] = value


class Forbidding(socket.socket):
    """A socket of a host where `tcp_allowed_congestion_control` has nothing for us."""

    def setsockopt(self, level, option, *value):
        if (level, option) == CONGESTION:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        super().setsockopt(level, option, *value)


def congestion_control(sock):
    return sock.getsockopt(*CONGESTION, 16).rstrip(b"\0")


@pytest.mark.parametrize("host", [HOST, "::1"])
def test_who_comes_by_loopback_is_not_paced(host):
    port = open_port(Endpoint(host), Transport.TCP, shared=True)
    client = socket.socket(port.family)
    with closing(port, client):
        port.listen(1)
        client.connect(port.getsockname())
        port.settimeout(5)
        accepted, _ = port.accept()
        with closing(accepted):
            assert congestion_control(accepted) == b"reno"
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE)


def test_everybody_else_is_paced_as_the_host_likes():
    with closing(
        open_port(Endpoint("0.0.0.0"), Transport.TCP, shared=True, open_socket=Noting)
    ) as port:
        assert CONGESTION not in port.options
        assert port.options[socket.IPPROTO_TCP, socket.TCP_NODELAY] == (1,)


def test_an_address_that_strangers_come_to_says_nothing_about_them():
    with closing(Noting()) as sock:
        set_up_stream(sock, Endpoint(HOST), foreign=True)
        assert CONGESTION not in sock.options
        set_up_stream(sock, Endpoint(HOST))
        assert CONGESTION in sock.options


def test_an_administrator_may_forbid_it():
    with closing(
        open_port(Endpoint(HOST), Transport.TCP, shared=True, open_socket=Forbidding)
    ) as port:
        assert port.getsockname()[0] == HOST
