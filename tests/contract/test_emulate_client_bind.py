"""`emulate_client_bind`: a primary inbound connection, for a client that made no bind."""

import pytest
from calls import UNKNOWN, own
from players import LOCAL, REMOTE, Speaker
from rig import OTHER_HOST, PROBE_DATA, Hearing, eventually, make_filter, open_world

from fwproxy import Endpoint, Transport, Verdict
from fwproxy.config.config import Limits
from fwproxy.errors import (
    AddressNotAllowedError,
    PolicyRulesDeniedError,
    QuotaError,
    TerminatingError,
)
from fwproxy.events import AcceptedConnection, BindTcp, BindUdp, ConnectionTerminating, Listen

BOTH = pytest.mark.parametrize("transport", list(Transport))


@BOTH
async def test_a_primary_inbound_connection_for_a_client_that_made_no_bind(transport):
    heard = []
    events = (BindTcp, BindUdp, Listen, AcceptedConnection, ConnectionTerminating)
    witness = make_filter("witness", heard.append, *events)
    async with open_world(witness) as world:
        primary = await world.primary()
        far = world.listen() if transport is Transport.TCP else world.datagrams()
        hearing = Hearing(primary.session)
        bound = await primary.session.emulate_client_bind(
            far.address, LOCAL, PROBE_DATA, transport=transport, session_filter=hearing
        )
        assert (bound.is_secondary, bound.is_emulated) == (False, True)
        assert (bound.proxy_address, bound.client_address) == (LOCAL, far.address)
        assert world.engine.ports.in_use == 0
        assert len(world.engine.ledger) == 1
        speaker = Speaker()
        connection = bound.emulate_connection(REMOTE, data_filter=speaker)
        speaker_says = b"hello"
        if transport is Transport.TCP:
            client = await world.accept(far)
            await eventually(lambda: connection.data_path)
            speaker.to_client.send(speaker_says)
            assert await client.read(5) == speaker_says
        else:
            speaker.to_client.send(speaker_says)
            assert (await far.receive())[0] == speaker_says
        connection.kill()
        kinds = [BindTcp, Listen] if transport is Transport.TCP else [BindUdp]
        assert [type(event) for event in heard] == [
            *kinds,
            AcceptedConnection,
            ConnectionTerminating,
        ]
        assert [event.context for event in hearing.heard] == [None]
        assert primary.session.end_reason is None  # only *the* primary's end is the session's


async def test_emulate_client_bind_is_checked_as_a_bind_is():
    async with open_world(limits=Limits(max_connections_per_session=2)) as world:
        primary = await world.primary()
        session = primary.session
        with pytest.raises(AddressNotAllowedError):
            await session.emulate_client_bind(Endpoint(OTHER_HOST, 5000), LOCAL, PROBE_DATA)
        made = await session.emulate_client_bind(UNKNOWN, LOCAL, PROBE_DATA)
        with pytest.raises(QuotaError):
            await session.emulate_client_bind(own(), LOCAL, PROBE_DATA)
        made.kill()
        primary.client.reset()
        await world.ended()
        with pytest.raises(TerminatingError):
            await session.emulate_client_bind(own(), LOCAL, PROBE_DATA)


async def test_emulate_client_bind_may_be_denied_by_others_and_not_by_the_caller():
    answer = []

    def hear(event):
        return answer[0] if isinstance(event, BindTcp) else None

    async with open_world(make_filter("other", hear, BindTcp)) as world:
        primary = await world.primary()
        session = primary.session
        answer.append(Verdict.DENY)
        with pytest.raises(PolicyRulesDeniedError):
            await session.emulate_client_bind(own(), LOCAL, PROBE_DATA)
        assert len(session.connections) == 1
        caller = session.attach_filter("other")
        assert await session.emulate_client_bind(own(), LOCAL, PROBE_DATA, session_filter=caller)
        answer[0] = Verdict.EMULATE  # which it is already
        assert await session.emulate_client_bind(own(), LOCAL, PROBE_DATA)
