"""Times of the week: how they are written, and when they hold."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwproxy.errors import InvalidArgumentError
from fwproxy.policy.times import DAYS, WeekTime, wall_clock

MONDAY = datetime(2026, 3, 2)


def at(day, clock):
    hour, minute = map(int, clock.split(":"))
    return MONDAY + timedelta(days=DAYS.index(day), hours=hour, minutes=minute)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (
            "Mon-Fri 08:00-18:00",
            ["Mon 08:00", "Fri 17:59"],
            ["Mon 07:59", "Fri 18:00", "Sat 12:00"],
        ),
        ("Sat,Sun", ["Sat 00:00", "Sun 23:59"], ["Fri 23:59", "Mon 00:00"]),
        ("08:00-18:00", ["Sun 08:00"], ["Sun 18:00"]),
        ("Fri 22:00-06:00", ["Fri 22:00", "Sat 05:59"], ["Fri 05:59", "Sat 06:00", "Sat 22:00"]),
        ("Sun 22:00-06:00", ["Mon 05:59"], ["Sun 05:59"]),
        ("Fri-Mon", ["Fri 00:00", "Mon 23:59"], ["Tue 00:00", "Thu 23:59"]),
        ("Mon 12:00-12:00", ["Mon 12:00", "Tue 11:59"], ["Mon 11:59", "Tue 12:00"]),
        ("Mon 18:00-24:00", ["Mon 23:59"], ["Tue 00:00"]),
    ],
)
def test_a_time_holds_from_its_start_to_before_its_end(text, inside, outside):
    made = WeekTime.parse(text)
    assert [made.holds(at(*moment.split())) for moment in inside] == [True] * len(inside)
    assert [made.holds(at(*moment.split())) for moment in outside] == [False] * len(outside)


@pytest.mark.parametrize(
    "text",
    [
        "", "Mon-", "mon", "Mon Tue", "Mon 8:00-18:00", "Mon 08:00", "Mon 08:00-25:00",
        "Mon 24:00-06:00", "Mon 08:60-09:00", "Mon 08:00-24:01", "Mon,,Tue", "Mon 08:00-18:00 x",
        "Mon 08:00\u201318:00",
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused(text):
    with pytest.raises(InvalidArgumentError):
        WeekTime.parse(text)


@given(
    st.frozensets(st.integers(0, 6), min_size=1), st.integers(0, 24 * 60 - 1), st.integers(1, 1440)
)
def test_a_time_survives_its_own_spelling(days, start, end):
    made = WeekTime(days, start, end)
    if str(made) != "always":
        assert WeekTime.parse(str(made)) == made


def test_the_clock_tells_the_time_of_its_zone():
    berlin, tokyo = wall_clock("Europe/Berlin")(), wall_clock("Asia/Tokyo")()
    assert berlin.tzinfo == ZoneInfo("Europe/Berlin")
    assert abs(berlin - tokyo) < timedelta(seconds=5)
    assert wall_clock()().utcoffset() is not None


@pytest.mark.parametrize("zone", ["Europe/Nowhere", "", "../etc/passwd", "/etc/localtime"])
def test_an_unknown_zone_is_refused(zone):
    with pytest.raises(InvalidArgumentError, match="there is no time zone"):
        wall_clock(zone)
