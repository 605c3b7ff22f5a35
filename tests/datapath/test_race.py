"""Connecting to the one of several addresses that answers first."""

import errno

import pytest
from rig import HOST, OTHER_HOST, Mute, Upstream, advance, closing, eventually, unused_endpoint
from wires import running_poller

from fwproxy.address import Endpoint
from fwproxy.clock import Deadlines
from fwproxy.datapath.race import Race, alternating


class Finish:
    """What a race has said."""

    def __init__(self):
        self.calls = []

    def __call__(self, target, sock, error):
        self.calls.append((target, sock, error))


def race(poller, targets, finish, deadlines=None, source=None):
    deadlines = Deadlines(lambda: 0.0) if deadlines is None else deadlines
    return Race(poller, deadlines, targets, lambda _: source, finish, delay=1.0)


async def test_the_first_that_answers_wins_and_the_others_are_given_up():
    async with running_poller() as poller:
        upstream, mute, finish = Upstream(OTHER_HOST), Mute(), Finish()
        deadlines = Deadlines(lambda: 0.0)
        with closing(upstream, mute):
            running = race(poller, [mute.address, upstream.address], finish, deadlines)
            assert len(poller) == 1, "only the first"
            assert not running.is_done
            advance(deadlines, 1.5)
            assert len(poller) == 2, "both"
            server = await upstream.accept()
            await eventually(lambda: finish.calls)
            ((target, sock, error),) = finish.calls
            with closing(server, sock):
                assert (target, error) == (upstream.address, None)
                assert running.is_done
                assert len(poller) == 1, "the winner's, for its next owner"
                assert not len(deadlines)
                poller.forget(sock.fileno())


async def test_one_that_fails_is_followed_at_once():
    async with running_poller() as poller:
        upstream, finish = Upstream(), Finish()
        with closing(upstream):
            refused = [unused_endpoint(), unused_endpoint(OTHER_HOST)]
            race(poller, [*refused, upstream.address], finish)
            server = await upstream.accept()
            await eventually(lambda: finish.calls)
            ((target, sock, _),) = finish.calls
            assert target == upstream.address
            poller.forget(sock.fileno())
            with closing(server, sock):
                pass


@pytest.mark.parametrize("count", [1, 3])
async def test_if_all_fail_it_fails_once(count):
    async with running_poller() as poller:
        finish = Finish()
        targets = [unused_endpoint() for _ in range(count)]
        running = race(poller, targets, finish)
        await eventually(lambda: finish.calls)
        ((target, sock, error),) = finish.calls
        assert (target, sock, error.errno) == (targets[-1], None, errno.ECONNREFUSED)
        assert running.is_done
        assert not len(poller)


async def test_what_cannot_even_begin_is_a_failure_too():
    async with running_poller() as poller:
        finish = Finish()
        targets = [Endpoint("::1", 1), Endpoint("::1", 2)]
        race(poller, targets, finish, source=Endpoint(HOST))
        assert [(target, sock) for target, sock, _ in finish.calls] == [(targets[-1], None)]


async def test_whoever_gives_up_hears_nothing():
    async with running_poller() as poller:
        mute, other, finish = Mute(), Mute(OTHER_HOST), Finish()
        deadlines = Deadlines(lambda: 0.0)
        with closing(mute, other):
            running = race(poller, [mute.address, other.address], finish, deadlines)
            running.cancel()
            running.cancel()
            advance(deadlines, 5.0)
            assert not finish.calls
            assert not len(poller)
            assert not len(deadlines)


def test_ip_versions_take_turns():
    def spelled(*hosts):
        return [each.host for each in alternating([Endpoint(host, 1) for host in hosts])]

    assert spelled("::1", "::2", "::3", "10.0.0.1") == ["::1", "10.0.0.1", "::2", "::3"]
    assert spelled("10.0.0.1", "::1", "10.0.0.2") == ["10.0.0.1", "::1", "10.0.0.2"]
    assert spelled("10.0.0.1") == ["10.0.0.1"]
