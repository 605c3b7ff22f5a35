"""Errors that few calls raise, each where it is meant."""

import pytest
from calls import bind, is_refused, own, redirect
from rig import HOST, OTHER_HOST, eventually, make_filter, open_world, tagger

from fwproxy import DataFilter, Endpoint, ListenerKind, Transport
from fwproxy import testing as t
from fwproxy.errors import (
    AlreadyExistsError,
    BusyError,
    ClosedByPolicyError,
    NatAddressNotAvailableError,
    NotAuthenticatedError,
    PolicyRulesDeniedError,
)
from fwproxy.events import AcceptedConnection, ConnectTcp
from fwproxy.policy.policy import Network, NetworkRelation, Relation, Rule

SERVER = Endpoint(t.SERVER[4], 2000)
NAT = (Relation("near", "far", NetworkRelation.NAT),)
ALLOW = (Rule(allow=True),)


async def test_a_data_filter_stands_in_a_stream_once():
    said = []

    def hear(event):
        one = tagger(b"<%b>")
        event.connection.attach_data_filter(one)
        with pytest.raises(AlreadyExistsError) as caught:
            event.connection.attach_data_filter(one)
        said.append(caught.type)
        event.connection.attach_data_filter(tagger(b"(%b)"))

    async with open_world(make_filter("twice", hear, ConnectTcp)) as world:
        primary = await world.primary()
        await primary.client.send(b"x")
        assert await primary.server.read(5) == b"(<x>)"
        assert said == [AlreadyExistsError]


def test_a_connection_is_connected_to_one_server_at_a_time():
    class Gateway(DataFilter):
        async def data_from_client(self, data):
            await self.connection.connect(SERVER)
            self.to_server.send(data)

    def hear(event):
        event.connection.attach_data_filter(Gateway())

    kind = make_filter("gateway", hear, AcceptedConnection)
    with t.Script(kind, kind=ListenerKind.GATEWAY, answer=t.Answer.SILENCE) as script:
        script.client.send(b"go")
        with pytest.raises(BusyError):
            script.run(script.connection.connect(SERVER.with_port(2001)))
        (dialled,) = script.dials
        assert dialled.accept().take() == b"go"


@pytest.mark.parametrize("transport", list(Transport))
async def test_a_rule_for_users_says_so_to_a_session_that_has_none(transport):
    rules = (Rule(allow=True, protocols=("probe",)), Rule(allow=True, users=("anna",)))
    async with open_world(rules=rules) as world:
        session = (primary := await world.primary()).session
        asked = {"protocol": world.engine.protocols["tcp"], "transport": transport}
        for call in (bind(primary, **asked), redirect(primary, own(), **asked)):
            with pytest.raises(NotAuthenticatedError, match="for users"):
                await call
        session.authenticated_user = "bert"
        with pytest.raises(PolicyRulesDeniedError):
            await bind(primary, **asked)
        session.authenticated_user = "anna"
        assert await bind(primary, **asked)


async def test_without_an_address_to_translate_to_nothing_leaves_across_nat():
    far = Network("far", (f"{OTHER_HOST}/32", "2001:db8::/32"), ("2001:db8::1",))
    networks = (Network("near", (f"{HOST}/32",)), far)
    async with open_world(networks=networks, relations=NAT, rules=ALLOW) as world:
        primary = await world.primary()
        target = world.listen(OTHER_HOST).address
        with pytest.raises(NatAddressNotAvailableError, match=r"no IPv4 address.*far"):
            await redirect(primary, target, transport=Transport.UDP)
        assert not len(world.engine.ledger)
        assert not world.engine.ports.in_use
        made = await redirect(primary, target)  # TCP leaves only when the client has come
        assert await is_refused(world, made.internal_address)
        await eventually(lambda: len(primary.session.connections) == 1)


def test_a_filter_may_say_that_its_own_policy_ends_a_connection():
    class Shift(DataFilter):
        def data_from_client(self, data):
            raise ClosedByPolicyError("the shift is over")

    def hear(event):
        event.connection.attach_data_filter(Shift())

    with t.Script(make_filter("shift", hear, ConnectTcp)) as script:
        connection = script.connection
        script.client.send(b"more")
        assert "ClosedByPolicyError: the shift is over" in connection.close_reason
        assert script.client.is_reset
        assert script.server.is_reset
        assert [type(each) for each in script.take_failures()] == [ClosedByPolicyError]
