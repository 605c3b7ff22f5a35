"""The private epoll set: edges to owners, turns, and faults that stay where they are."""

import asyncio
import contextlib
import os
import select
import socket

from rig import closing, eventually, turns
from wires import running_poller

from fwproxy.datapath.poll import READABLE, WRITABLE, Poller


class Owner:
    """Notes its edges, and does what it is told to."""

    def __init__(self, action=lambda fd, events: None):
        self.edges = []
        self.faults = []
        self.action = action

    def on_ready(self, fd, events):
        self.edges.append((fd, events))
        self.action(fd, events)

    def on_broken(self, error):
        self.faults.append(error)


@contextlib.contextmanager
def pair():
    one, other = socket.socketpair()
    one.settimeout(0)
    with closing(one, other):
        yield one, other


async def test_an_owner_hears_of_every_new_edge_once():
    async with running_poller() as poller:
        with pair() as (near, far):
            owner = Owner()
            assert poller.watch(near.fileno(), owner) is False
            await eventually(lambda: owner.edges)
            assert owner.edges[0][1] & WRITABLE
            for count in (2, 3):
                far.send(b"x")
                await eventually(lambda count=count: len(owner.edges) == count)
                assert owner.edges[-1][1] & READABLE
            await turns()
            assert len(owner.edges) == 3
            poller.forget(near.fileno())


async def test_what_was_there_before_is_reported_too():
    async with running_poller() as poller:
        with pair() as (near, far):
            far.send(b"x")
            owner = Owner()
            poller.watch(near.fileno(), owner)
            await eventually(lambda: any(events & READABLE for _, events in owner.edges))
            poller.forget(near.fileno())


async def test_a_new_owner_must_look_for_himself():
    async with running_poller() as poller:
        with pair() as (near, far):
            first, second = Owner(), Owner()
            poller.watch(near.fileno(), first)
            await eventually(lambda: first.edges)
            assert poller.watch(near.fileno(), second) is True
            assert len(poller) == 1
            before = len(first.edges)
            far.send(b"x")
            await eventually(lambda: second.edges)
            assert len(first.edges) == before
            poller.forget(near.fileno())


async def test_what_is_known_to_be_quiet_needs_no_look():
    async with running_poller() as poller:
        with pair() as (near, _):
            poller.watch(near.fileno(), Owner())
            poller.quiet_fd = near.fileno()
            assert poller.watch(near.fileno(), Owner()) is False
            poller.forget(near.fileno())


async def test_who_is_forgotten_or_unregistered_hears_no_more():
    async with running_poller() as poller:
        with pair() as (near, far), pair() as (other_near, other_far):
            forgotten, unregistered = Owner(), Owner()
            poller.watch(near.fileno(), forgotten)
            poller.watch(other_near.fileno(), unregistered)
            poller.forget(near.fileno())
            poller.unregister(other_near.fileno())
            poller.unregister(other_near.fileno())
            poller.forget(12345)
            far.send(b"x")
            other_far.send(b"x")
            await turns()
            assert not forgotten.edges
            assert not unregistered.edges
            poller.watch(other_near.fileno(), unregistered)
            await eventually(lambda: unregistered.edges)
            poller.forget(other_near.fileno())


async def test_a_reused_descriptor_does_not_get_its_predecessors_edges():
    """Both edges are taken from the set at once; handling the first one replaces the second."""
    async with running_poller() as poller:
        with contextlib.ExitStack() as stack:
            nears, fars = [], []
            for _ in range(2):
                near, far = stack.enter_context(pair())
                nears.append(near)
                fars.append(far)
            heir = Owner()
            numbers = [near.fileno() for near in nears]

            def replace(fd, events):
                if not events & READABLE or heir_sockets:
                    return
                other = nears[1 - numbers.index(fd)]
                number = other.fileno()
                poller.forget(number)
                other.close()
                fresh, peer = stack.enter_context(pair())
                if fresh.fileno() != number:
                    os.dup2(fresh.fileno(), number)
                    stack.callback(os.close, number)
                heir_sockets.append((number, peer))
                poller.watch(number, heir)

            heir_sockets = []
            owner = Owner(replace)
            for near in nears:
                poller.watch(near.fileno(), owner)
            await eventually(lambda: len(owner.edges) == 2)
            for far in fars:
                far.send(b"x")
            await eventually(lambda: heir.edges)
            assert not any(events & READABLE for _, events in heir.edges)
            (_, peer), *others = heir_sockets
            assert not others
            peer.send(b"x")
            await eventually(lambda: any(events & READABLE for _, events in heir.edges))
            for fd in numbers:
                poller.forget(fd)


async def test_a_fault_is_its_owners_and_the_others_go_on():
    async with running_poller() as poller:
        with pair() as (near, _), pair() as (other_near, _):

            def fail(fd, events):
                raise ValueError("a fault")

            broken, sound = Owner(fail), Owner()
            poller.watch(near.fileno(), broken)
            poller.watch(other_near.fileno(), sound)
            await eventually(lambda: broken.faults and sound.edges)
            assert [type(fault) for fault in broken.faults] == [ValueError]
            assert not sound.faults
            poller.forget(near.fileno())
            poller.forget(other_near.fileno())


async def test_deferred_work_comes_after_everybody_else():
    order = []
    async with running_poller() as poller:
        with pair() as (near, _):
            poller.watch(near.fileno(), Owner(lambda fd, events: order.append("edge")))
            poller.defer(
                lambda: (order.append("first"), poller.defer(lambda: order.append("third")))
            )
            poller.defer(lambda: order.append("second"))
            await eventually(lambda: len(order) == 4)
            poller.forget(near.fileno())
    assert order == ["edge", "first", "second", "third"]


async def test_faults_of_deferred_work_go_to_the_loop_and_the_rest_is_done():
    faults, done = [], []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))

    def fail():
        raise ValueError("a fault")

    async with running_poller() as poller:
        poller.defer(fail)
        poller.defer(lambda: done.append(1))
        await eventually(lambda: done)
    assert [type(fault) for fault in faults] == [ValueError]


async def test_busy_owners_leave_the_loop_its_turn():
    """A level-triggered descriptor that is always ready must not keep the loop to itself."""
    async with running_poller() as poller:
        with pair() as (near, _):
            owner = Owner()
            poller.watch(near.fileno(), owner, select.EPOLLOUT)
            for _ in range(10):
                await asyncio.sleep(0)
            assert len(owner.edges) > 1
            poller.forget(near.fileno())


async def test_after_its_end_nothing_is_called():
    called = []
    poller = Poller(asyncio.get_running_loop())
    with pair() as (near, far):
        poller.watch(near.fileno(), Owner(lambda fd, events: called.append(fd)))
        poller.defer(lambda: called.append("deferred"))
        poller.close()
        far.send(b"x")
        await turns()
    assert not called
