"""Which relay carries the bytes of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fwproxy.datapath.base import Relay
from fwproxy.datapath.splice import SpliceRelay
from fwproxy.datapath.user import FilterRelay

if TYPE_CHECKING:
    from fwproxy.connection import Connection


def stream_relay(connection: Connection) -> tuple[Relay, str]:
    """Make the relay of a TCP connection; return it with the reason for the data path."""
    engine = connection.session.engine
    assert connection.client_sock is not None  # noqa: S101 - all callers have looked
    if connection.data_filters:
        names = ", ".join(type(entry[1]).__name__ for entry in connection.data_filters)
        relay = FilterRelay(
            engine.poller,
            engine.deadlines,
            [(data_filter, context) for _, data_filter, context in connection.data_filters],
            connection,
            connection.client_sock,
            connection.server_sock,
            max_buffer=engine.limits.max_buffer,
            filter_timeout=engine.limits.filter_timeout,
            linger=engine.limits.drain_timeout,
            on_done=connection.relay_done,
        )
        return relay, f"data filter {names}"
    assert connection.server_sock is not None  # noqa: S101 - as above
    return SpliceRelay(
        engine.poller,
        connection.client_sock,
        connection.server_sock,
        pipes=engine.pipes,
        bulk_threshold=engine.config.datapath.bulk_threshold,
        on_done=connection.relay_done,
    ), "no data filter"
