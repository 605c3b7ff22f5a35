"""Bounds of configured numbers, and ranges of ports."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs

from fwproxy.errors import ConfigError


def _finite(attribute: attrs.Attribute[Any], value: float) -> None:
    if not math.isfinite(value):
        raise ConfigError.at((), f"must be finite, not {value}", attribute.name)


def positive(_: object, attribute: attrs.Attribute[Any], value: float) -> None:
    """Refuse 0 and less, as a validator of attrs."""
    _finite(attribute, value)
    if value <= 0:
        raise ConfigError.at((), f"must be more than 0, not {value}", attribute.name)


def not_negative(_: object, attribute: attrs.Attribute[Any], value: float) -> None:
    """Refuse less than 0, as a validator of attrs."""
    _finite(attribute, value)
    if value < 0:
        raise ConfigError.at((), f"must not be negative, as {value} is", attribute.name)


def at_least(
    least: int,
) -> Callable[[object, attrs.Attribute[Any], int], None]:
    """Make a validator of attrs that refuses less than *least*."""

    def check(_: object, attribute: attrs.Attribute[Any], value: int) -> None:
        if value < least:
            raise ConfigError.at((), f"must be at least {least}, not {value}", attribute.name)

    return check


@attrs.frozen(slots=True)
class PortRange:
    """A range of ports, both ends included."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> PortRange:
        """Read `40000-49999`, or a single port.

        Raises:
            ConfigError: *text* has another form, or is no range.
        """
        first, dash, last = text.partition("-")
        numbers = [part.strip() for part in ([first, last] if dash else [first, first])]
        if not all(part.isascii() and part.isdigit() and len(part) <= 5 for part in numbers):
            raise ConfigError(f'must be a range such as "40000-49999", not "{text}"')
        return cls(int(numbers[0]), int(numbers[1]))

    @property
    def numbers(self) -> range:
        """Every port of it."""
        return range(self.first, self.last + 1)

    def __attrs_post_init__(self) -> None:
        if not (1 <= self.first <= 65535 and 1 <= self.last <= 65535):
            raise ConfigError(f"the port range {self} is not within 1-65535")
        if self.first > self.last:
            raise ConfigError(f"the port range {self} ends before it starts")

    def holds(self, other: PortRange) -> bool:
        """Tell whether all of another range is in this one."""
        return self.first <= other.first and other.last <= self.last

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"
