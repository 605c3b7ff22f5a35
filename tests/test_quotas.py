"""Quotas of clients and rules, with a clock that the test moves."""

import pytest

from fwproxy.config.config import Limits
from fwproxy.engine import quotas
from fwproxy.engine.quotas import Bucket, Bursts, Quotas, client_of
from fwproxy.errors import QuotaError
from fwproxy.policy.rules import RuleLimits


class Clock:
    def __init__(self):
        self.time = 1000.0

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


def clients(clock, **limits):
    return Quotas(Limits(**limits), clock)


def test_a_bucket_gives_a_burst_and_then_its_rate(clock):
    bucket = Bucket(2.0, 3, clock())
    assert [bucket.take(clock()) for _ in range(4)] == [True, True, True, False]
    assert not bucket.is_full(clock())
    clock.time += 0.5
    assert [bucket.take(clock()) for _ in range(2)] == [True, False]
    clock.time += 1000
    assert bucket.is_full(clock())
    assert [bucket.take(clock()) for _ in range(4)] == [True, True, True, False]


def test_a_refused_one_costs_no_token(clock):
    bucket = Bucket(1.0, 1, clock())
    assert bucket.take(clock())
    for _ in range(9):
        clock.time += 0.1
        assert not bucket.take(clock())
    clock.time += 0.11
    assert bucket.take(clock())


def test_without_quotas_nothing_is_kept(clock):
    made = clients(clock)
    assert not made.for_clients
    assert made.rule("any", None) is made.rule("any", RuleLimits()) is None


def test_each_quota_names_its_setting(clock):
    made = clients(
        clock, max_connections_per_client=2, max_permissions_per_client=1,
        connection_rate_per_client=1.0, connection_burst_per_client=1,
    )  # fmt: skip
    usage = made.client("192.0.2.1")
    usage.connections, usage.permissions = 2, 1
    with pytest.raises(QuotaError, match=r"the client 192\.0\.2\.1 \(max_connections_per_client\)"):
        usage.check(0, 1)
    with pytest.raises(QuotaError, match=r"more than 1 permissions .*max_permissions_per_client"):
        usage.check(1, 0)
    usage.check(0, 0)
    usage.arrive(clock())
    with pytest.raises(QuotaError, match=r"1 new connections per second .*connection_rate_per_cl"):
        usage.arrive(clock())
    rule = made.rule("ftp", RuleLimits(max_connections=1))
    with pytest.raises(QuotaError, match=r"the rule 'ftp' \(rules\.limits\.max_connections\)"):
        rule.check(0, 2)


def test_a_client_is_an_address_or_an_ipv6_prefix(clock):
    made = clients(clock, connection_rate_per_client=1.0)
    assert client_of("2001:db8:1:2:3::4") == client_of("2001:db8:1:2::5") == "2001:db8:1:2::/64"
    assert made.client("2001:db8::1") is made.client("2001:db8::ffff:0:0:1")
    assert made.client("2001:db8::1") is not made.client("2001:db8:0:1::1")
    assert made.client("192.0.2.1") is not made.client("192.0.2.2")


def test_what_is_known_of_a_client_goes_with_it(clock):
    made = clients(clock, connection_rate_per_client=1.0, connection_burst_per_client=2)
    for number in range(200):
        made.refusal(f"192.0.2.{number}")
    assert len(made) == 200
    clock.time += 10  # their buckets are full again
    for number in range(200):
        made.refusal(f"198.51.100.{number}")
    assert len(made) <= 201
    clock.time += 10
    here = made.client("203.0.113.1")
    here.sessions = 1
    clock.time += 10
    for _ in range(3):
        for number in range(200):
            made.refusal(f"192.0.2.{number}")
        clock.time += 10
    assert made.client("203.0.113.1") is here


def test_the_table_of_clients_is_bounded(clock):
    made = clients(clock, connection_rate_per_client=0.001, max_tracked_clients=50)
    for number in range(1000):
        assert made.refusal(f"10.0.{number // 256}.{number % 256}") is None
    assert len(made) <= 51


def test_the_rate_of_one_client_is_not_that_of_another(clock):
    made = clients(clock, connection_rate_per_client=1.0, connection_burst_per_client=2)
    assert [made.refusal("192.0.2.1") is None for _ in range(3)] == [True, True, False]
    assert made.refusal("192.0.2.2") is None
    clock.time += 1
    assert made.refusal("192.0.2.1") is None


def test_one_of_a_burst_is_worth_a_line(clock, monkeypatch):
    bursts = Bursts(clock)
    assert bursts.note("setting", "one") == 0
    assert [bursts.note("setting", "one") for _ in range(5)] == [None] * 5
    assert bursts.note("setting", "two") == 0
    assert bursts.note("other", "one") == 0
    clock.time += 10
    assert bursts.note("setting", "one") == 5
    assert bursts.note("setting", "one") is None
    monkeypatch.setattr(quotas, "_MAX_BURSTS", 20)
    for number in range(100):
        bursts.note("setting", f"{number}")
    assert len(bursts) <= 20
