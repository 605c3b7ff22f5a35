"""Elements that several pinholes need, and how many there are that do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from fwproxy.datapath.kernel.elements import Element
from fwproxy.errors import KernelPathError

_Place = tuple[str, bytes]
"""A set and a key in it."""


@attrs.define(slots=True)
class _Use:
    element: Element
    count: int = 0


class SharedElements:
    """Counts who needs what."""

    def __init__(self) -> None:
        self._uses: dict[_Place, _Use] = {}

    def __iter__(self) -> Iterator[Element]:
        return (use.element for use in self._uses.values())

    def missing(self, found: Iterable[Element]) -> list[Element]:
        """Return those of the elements that are not there yet.

        Raises:
            KernelPathError: one is in the way of another.
        """
        added: dict[_Place, Element] = {}
        for element in found:
            place = element.where, element.key
            known = self._uses.get(place)
            there = added.get(place) if known is None else known.element
            if there is None:
                added[place] = element
            elif there != element:
                raise KernelPathError("another connection to the target has another source")
        return list(added.values())

    def take(self, found: Iterable[Element]) -> None:
        """Count one more who needs each."""
        for element in found:
            self._uses.setdefault((element.where, element.key), _Use(element)).count += 1

    def give_back(self, found: Iterable[Element]) -> list[Element]:
        """Count one less who needs each; return those that nobody needs any more."""
        unused = []
        for element in found:
            place = element.where, element.key
            use = self._uses[place]
            use.count -= 1
            if not use.count:
                del self._uses[place]
                unused.append(element)
        return unused
