"""S16, S21, S40 and S43 of the filter API: which flags each call takes, and what it says if not."""

import itertools

import pytest
from calls import F, bind, redirect
from rig import HOST, PROBE_DATA, open_world

from fwproxy import Endpoint, SecondaryFlags, Transport
from fwproxy.errors import InvalidArgumentError
from fwproxy.secondary.flag_rules import EXCLUSIVE, REFUSED, check_flags

TCP, UDP = Transport.TCP, Transport.UDP
CALLS = list(REFUSED)
TAKEN = {
    "bind_for_client": ~F.ADDRESS_BASED,
    "redirect_connections": (
        F.ALLOW_MULTIPLE | F.TIMEOUT | F.NO_KERNEL_MODE | F.INCREASE_RECEIVE_BUFFER
    ),
    "connect_for_client": (
        F.NO_KERNEL_MODE
        | F.ALLOW_ADDRESSES_IN_CLASS_C_NETWORK
        | F.ALLOW_ADDRESSES_IN_NETWORK
        | F.ALLOW_ADDRESSES_ALL
        | F.INCREASE_RECEIVE_BUFFER
        | F.IGNORE_RESTRICTED_PORTS
    ),
    "emulate_client_bind": ~(F.ADDRESS_BASED | F.PROXY_MODE | F.INCREASE_RECEIVE_BUFFER),
    "allow_future_connect": ~(F.BIDIRECTIONAL | F.PROXY_MODE),
    "retroactive_allow_bind": (
        F.ALLOW_MULTIPLE
        | F.TIMEOUT
        | F.NO_KERNEL_MODE
        | F.BIDIRECTIONAL
        | F.INCREASE_RECEIVE_BUFFER
    ),
}
"""The whole table, written down a second time."""


async def call(world, primary, name, flags, transport):
    """Make a call that would succeed without the flags."""
    session, own = primary.session, Endpoint(HOST, 5000)
    if name == "bind_for_client":
        return await bind(primary, own, flags=flags, transport=transport)
    if name == "redirect_connections":
        return await redirect(primary, own, flags=flags, transport=transport)
    if name == "connect_for_client":
        return await session.connect_for_client(own, own, flags=flags, protocol=PROBE_DATA)
    if name == "emulate_client_bind":
        there = Endpoint(HOST, 5001)
        return await session.emulate_client_bind(
            own, there, PROBE_DATA, flags=flags, transport=transport
        )
    return await getattr(session, name)(own, flags=flags, transport=transport, protocol=PROBE_DATA)


@pytest.mark.parametrize("transport", [TCP, UDP])
@pytest.mark.parametrize("name", CALLS)
async def test_s43_a_flag_that_a_call_does_not_take_is_named_with_the_reason(name, transport):
    async with open_world() as world:
        primary = await world.primary()
        for flag in SecondaryFlags:
            if flag in TAKEN[name]:
                continue
            with pytest.raises(InvalidArgumentError) as caught:
                await call(world, primary, name, flag, transport)
            assert str(caught.value).startswith(f"{name} does not take {flag.name}: ")
            assert str(caught.value).endswith(REFUSED[name][flag])
        assert world.engine.ports.in_use == len(world.engine.ledger) == 0
        assert primary.session.connections == {primary.connection}


@pytest.mark.parametrize("transport", [TCP, UDP])
@pytest.mark.parametrize("name", CALLS)
async def test_s43_every_other_flag_is_taken(name, transport):
    async with open_world() as world:
        primary = await world.primary()
        for flag in TAKEN[name]:
            if flag is F.BIDIRECTIONAL and transport is TCP:
                continue
            assert await call(world, primary, name, flag, transport)


@pytest.mark.parametrize("name", CALLS)
def test_s43_all_flags_that_go_together_go_together(name):
    """Every pair is judged as the table says, over both transports."""
    for one, other in itertools.combinations(SecondaryFlags, 2):
        for transport in (TCP, UDP):
            fits = one | other in TAKEN[name]
            fits &= transport is UDP or F.BIDIRECTIONAL not in one | other
            fits &= {one, other} not in [{a, b} for a, b, _ in EXCLUSIVE.get(name, ())]
            if fits:
                check_flags(name, one | other, transport)
            else:
                with pytest.raises(InvalidArgumentError):
                    check_flags(name, one | other, transport)


def test_s16_only_one_pair_excludes_each_other_and_only_in_one_call():
    pairs = [(name, {a, b}) for name, rows in EXCLUSIVE.items() for a, b, _ in rows]
    assert pairs == [("bind_for_client", {F.TIMEOUT, F.ALLOW_MULTIPLE})]


@pytest.mark.parametrize("name", ["bind_for_client", "retroactive_allow_bind"])
def test_s21_bidirectional_over_tcp_says_why_not(name):
    with pytest.raises(InvalidArgumentError, match="BIDIRECTIONAL is for UDP only: a TCP"):
        check_flags(name, F.BIDIRECTIONAL | F.TIMEOUT, TCP)
    check_flags(name, F.BIDIRECTIONAL | F.TIMEOUT, UDP)
