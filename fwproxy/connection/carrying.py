"""Which relay carries the bytes of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fwproxy.datapath.base import Relay
from fwproxy.datapath.choice import Choice, choose
from fwproxy.datapath.datagram import DatagramRelay
from fwproxy.datapath.splice import SpliceRelay
from fwproxy.datapath.user import FilterRelay

if TYPE_CHECKING:
    from fwproxy.connection.connection import Connection


def put_filters(connection: Connection, relay: DatagramRelay) -> None:
    """Send a UDP connection's datagrams through its data filters, and note the reason."""
    connection.choice = _with_filters(connection)
    filters = [(entry.data_filter, entry.context) for entry in connection.data_filters or ()]
    relay.set_filters(filters, emulated=connection.is_emulated)


def _with_filters(connection: Connection) -> Choice:
    attached = [entry.by for entry in connection.data_filters or ()]
    return choose(connection.transport, connection.choice.event, attached=attached)


def stream_relay(connection: Connection) -> Relay:
    """Make the relay of a TCP connection, and note the reason for its data path."""
    engine = connection.session.engine
    assert connection.client_sock is not None  # noqa: S101 - all callers have looked
    if connection.data_filters:
        connection.choice = _with_filters(connection)
        return FilterRelay(
            engine.poller,
            engine.deadlines,
            [(entry.data_filter, entry.context) for entry in connection.data_filters],
            connection,
            connection.client_sock,
            connection.server_sock,
            emulated=connection.is_emulated,
            max_buffer=engine.limits.max_buffer,
            filter_timeout=engine.limits.filter_timeout,
            linger=engine.limits.drain_timeout,
            on_done=connection.relay_done,
        )
    assert connection.server_sock is not None  # noqa: S101 - as above
    return SpliceRelay(
        engine.poller,
        connection.client_sock,
        connection.server_sock,
        pipes=engine.pipes,
        bulk_threshold=engine.config.datapath.bulk_threshold,
        on_done=connection.relay_done,
    )
