"""Which data path, and why: decided once, at the call that asks for a connection (S30-S33).

The decision is final. A permission that was given while nobody wanted to see its bytes may be
carried by the kernel, where no data filter can be put any more; whether this host's kernel does
carry it makes no difference to a filter.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence

import attrs

from fwproxy.address import Transport
from fwproxy.flags import SecondaryFlags

_NO_KERNEL_MODE = SecondaryFlags.NO_KERNEL_MODE


class DataPath(enum.Enum):
    """The ways that bytes may take."""

    KERNEL = "kernel"
    """Translated by the kernel; no byte enters user space."""
    SPLICE = "splice"
    """TCP between two sockets; the bytes of a bulky stream stay in kernel pipes."""
    DATAGRAM = "datagram"
    """UDP between sockets."""
    USER = "user"
    """Through data filters."""


HERE = frozenset({DataPath.SPLICE, DataPath.DATAGRAM, DataPath.USER})
"""What works on every host."""
EVERYTHING = HERE | {DataPath.KERNEL}


@attrs.frozen(slots=True)
class Choice:
    """One decision.

    Attributes:
        path: the data path, as far as the call can know it: a data filter that is expected may
            stay away, and one that may come still makes it `user`.
        reason: why, in words, for log and ledger.
        takes_filters: whether a data filter may still come.
        event: the name of the event at which data filters would come.
    """

    path: DataPath
    reason: str
    takes_filters: bool
    event: str = ""


UNDECIDED = Choice(DataPath.SPLICE, "no data filter", takes_filters=True)
"""What holds of a connection that no permission was given for: primary ones."""


def choose(
    transport: Transport,
    event: str,
    *,
    flags: SecondaryFlags = SecondaryFlags.NONE,
    attached: Sequence[str] = (),
    expected: Sequence[str] = (),
    heard: str = "",
    available: Collection[DataPath] = HERE,
    no_kernel: str = "",
) -> Choice:
    """Decide; the first reason that holds is the one that counts.

    Args:
        transport: TCP or UDP.
        event: the name of the event at which data filters would come.
        flags: those of the call; NO_KERNEL_MODE counts (S33).
        attached: the filters that have attached a data filter already.
        expected: the factories that will make one (S32).
        heard: the name of the resulting event if filters hear it, where they may attach one (S30).
        available: the data paths that there are for this connection on this host.
        no_kernel: why the kernel is not among them.
    """
    plain = DataPath.SPLICE if transport is Transport.TCP else DataPath.DATAGRAM
    if attached:
        names = ", ".join(dict.fromkeys(attached))
        return Choice(
            DataPath.USER, f"data filter attached by {names}", takes_filters=True, event=event
        )
    if expected:
        names = ", ".join(dict.fromkeys(expected))
        return Choice(
            DataPath.USER, f"data filter expected from {names}", takes_filters=True, event=event
        )
    if _NO_KERNEL_MODE in flags:
        return Choice(plain, "NO_KERNEL_MODE", takes_filters=True, event=event)
    if heard:
        return Choice(plain, f"a filter hears {heard}", takes_filters=True, event=event)
    if DataPath.KERNEL in available:
        return Choice(DataPath.KERNEL, "no data filter", takes_filters=False, event=event)
    return Choice(plain, no_kernel or "no data filter", takes_filters=False, event=event)
