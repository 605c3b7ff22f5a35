"""Binds that a filter plays: a permission without a port, and those whom the filter lets come."""

from __future__ import annotations

from fwproxy.address import Endpoint
from fwproxy.connection.connection import Connection, ConnectionState
from fwproxy.connection.facts import Attached, EmulatedBind
from fwproxy.datapath.datagram import DatagramRelay
from fwproxy.errors import AddressNotAllowedError, QuotaError
from fwproxy.events import AcceptedConnection
from fwproxy.filter import Ends
from fwproxy.flags import ConnectionFlags, SecondaryFlags, Verdict
from fwproxy.ledger.ledger import USED
from fwproxy.policy.grants import granted
from fwproxy.secondary.call import (
    SecondaryCall,
    announce,
    another_connection,
    connected_udp,
    known_client,
)
from fwproxy.secondary.datagrams import datagram_limits
from fwproxy.secondary.flag_rules import check_flags


def bind_emulated(
    call: SecondaryCall, connection: Connection, address: Endpoint, *, owns_port: bool
) -> None:
    """Give the permission for a bind that a filter plays.

    Args:
        call: who asks for it.
        connection: the bind.
        address: what is told to the server.
        owns_port: its number is one of the pool, so that nobody else is told the same.
    """
    bind = connection.emulated_bind
    assert bind is not None  # noqa: S101 - the caller has looked
    call = call.decided(AcceptedConnection, address, attached=[bind.by])
    connection.choice = call.choice

    def close(reason: str) -> None:
        if connection.state is ConnectionState.BOUND and reason != USED:
            connection.close(reason, failed=True)

    client = known_client(connection)
    action = call.permit(address, client, call.ip_filter, close, owns_port=owns_port)
    connection.bind(address, action)

    def accept(remote: Endpoint, local: Endpoint, player: Attached | None) -> Connection:
        return _accept(call, connection, player, remote, local)

    bind.accept = accept


def _accept(
    call: SecondaryCall,
    bind: Connection,
    player: Attached | None,
    remote: Endpoint,
    local: Endpoint,
) -> Connection:
    """Let *remote* come to the bind, as a real one would have come to its port."""
    action = bind.permission
    assert action is not None  # noqa: S101 - it is bound
    if action.peers is not None and not action.peers.is_included(remote.host):
        action.refused += 1
        raise AddressNotAllowedError(f"{remote} is none of {action.peers}")
    chosen = bind if call.is_single else another_connection(call, bind.client_address)
    if chosen is None or chosen.opening is None:
        raise QuotaError("no room for another connection (max_connections_per_session)")
    action.uses += 1
    if call.is_single:
        action.cancel(USED)
    chosen.permission = action
    chosen.is_played_by(player)
    if call.is_tcp:
        chosen.opening.accept_played(remote, local)
    else:
        chosen.opening.accept_played(remote, local, lambda: _carry_played(call, chosen, remote))
    return chosen


def _carry_played(call: SecondaryCall, connection: Connection, remote: Endpoint) -> None:
    """Let datagrams flow between the client and a filter that plays *remote*."""
    session, client = call.session, connection.client_address
    limits, ends = session.engine.limits, Ends(client, remote)
    relay = DatagramRelay(
        session.engine.poller,
        session.engine.deadlines,
        connection,
        None,
        open_far=lambda _: connected_udp(
            session.engine.poller, client, session.internal_source(client)
        ),
        ends_of=lambda _: ends,
        allowed=lambda _: True,
        welcome=lambda _, answer: answer(Verdict.ALLOW),
        replies=SecondaryFlags.BIDIRECTIONAL in call.flags,
        from_client=False,
        limits=datagram_limits(limits, max_peers=1, reply_timeout=limits.reply_timeout),
        on_done=connection.relay_done,
    )

    def carry() -> None:
        if client.is_unspecified or not relay.add_played(ends):
            connection.close(f"{client} cannot be sent to", failed=True)
        else:
            connection.carry_datagrams(relay, call.timeout)

    connection.first_datagram(ends, carry)


async def emulate_client_bind(call: SecondaryCall, client: Endpoint, proxy: Endpoint) -> Connection:
    """Do what `Session.emulate_client_bind` says."""
    session = call.session
    session.check_room(1, 1)
    call = granted(call, "emulate")
    check_flags("emulate_client_bind", call.flags, call.protocol.transport)
    session.check_client_addresses([client], call.flags)
    call.check_policy(client.host)
    connection = call.connection(client, ConnectionFlags.NONE)
    connection.is_played_by(None)
    connection.emulated_bind = EmulatedBind(proxy, call.filter_name or "a session filter")
    try:
        await announce(call, [connection], proxy, 0)
        session.check_room(1, 0)  # other calls may have come in between
        bind_emulated(call, connection, proxy, owns_port=False)
    except BaseException:
        connection.close("not bound", failed=True)
        raise
    return connection
