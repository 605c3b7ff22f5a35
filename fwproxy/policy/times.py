"""Times of the week, as rules name them: `Mon-Fri 08:00-18:00`."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, tzinfo
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import attrs

from fwproxy.errors import InvalidArgumentError

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

_DAY = 24 * 60
_CLOCK = re.compile(r"([01]\d|2[0-4]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)", re.ASCII)
_FORM = 'must be like "Mon-Fri 08:00-18:00", "Sat,Sun" or "22:00-06:00"'


@attrs.frozen(slots=True)
class WeekTime:
    """Days of the week, and from when to when on each of them.

    Attributes:
        days: 0 is Monday; the day on which the time begins.
        start: minutes after midnight.
        end: the same, and not part of it; not later than *start* means on the next day.
    """

    days: frozenset[int] = frozenset(range(7))
    start: int = 0
    end: int = _DAY

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read days, a time of day, or both.

        Raises:
            InvalidArgumentError: *text* has another form.
        """
        *days, clock = text.split() or [""]
        if ":" not in clock:
            days, clock = [*days, clock], "00:00-24:00"
        match = _CLOCK.fullmatch(clock)
        if match is None or len(days) > 1:
            raise InvalidArgumentError(f"{_FORM}, not {text!r}")
        hours = [int(part) for part in match.groups()]
        start, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
        if start >= _DAY or end > _DAY:
            raise InvalidArgumentError(f"{text!r} is beyond the end of the day, which is 24:00")
        return cls(_days(days[0]) if days else frozenset(range(7)), start, end)

    def holds(self, moment: datetime) -> bool:
        """Tell whether *moment*, in the time zone of the rules, is part of it."""
        day, minute = moment.weekday(), moment.hour * 60 + moment.minute
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        yesterday = (day - 1) % 7
        late = day in self.days and minute >= self.start
        return late or (yesterday in self.days and minute < self.end)

    def __str__(self) -> str:
        days = "" if len(self.days) == 7 else _spelled(self.days)
        clock = "" if (self.start, self.end) == (0, _DAY) else f"{_at(self.start)}-{_at(self.end)}"
        return " ".join(filter(None, [days, clock])) or "always"


def _days(text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        ends = [first, last] if dash else [first, first]
        if not all(end in DAYS for end in ends):
            raise InvalidArgumentError(f"{part!r} is no day: {_FORM}")
        start, length = DAYS.index(ends[0]), (DAYS.index(ends[1]) - DAYS.index(ends[0])) % 7
        found.update((start + n) % 7 for n in range(length + 1))
    return frozenset(found)


def _spelled(days: frozenset[int]) -> str:
    spans, left = [], sorted(days)
    while left:
        first = last = left.pop(0)
        while left and left[0] == last + 1:
            last = left.pop(0)
        spans.append(DAYS[first] if first == last else f"{DAYS[first]}-{DAYS[last]}")
    return ",".join(spans)


def _at(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def wall_clock(time_zone: str | None = None) -> Callable[[], datetime]:
    """Return a function that tells the time in a zone such as `Europe/Berlin`; None is the host's.

    Raises:
        InvalidArgumentError: there is no such zone.
    """
    zone = None if time_zone is None else _zone(time_zone)
    return lambda: datetime.now(zone) if zone is not None else datetime.now().astimezone()


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidArgumentError(f"there is no time zone {name!r}") from None
