"""Every error that fwproxy raises on purpose.

::

    FwproxyError
    ├── ConfigError                      a configuration that cannot be used
    ├── KernelPathError                  the kernel cannot carry it; user space does instead
    └── CallError                        a call of the filter API that was refused
        ├── TerminatingError             the session, connection or action is ending
        ├── InvalidArgumentError         also a ValueError
        ├── NotRegisteredError           the filter is not loaded or not bound here
        ├── AlreadyExistsError
        ├── BufferFullError              a bounded buffer would grow past its bound
        ├── BadContextError              not allowed at this point of the life cycle
        ├── AlreadyEmulatedError
        ├── NotEmulatedError
        ├── NotSupportedError
        ├── NotAuthenticatedError
        ├── BusyError
        ├── NoServerReplyError           the server refused, did not answer or does not resolve
        │   ├── ServerRefusedError
        │   ├── ServerUnreachableError   no way leads there
        │   │   └── NetworkUnreachableError
        │   ├── ServerTimedOutError
        │   └── NameNotFoundError
        ├── DeniedError                  somebody said no
        │   ├── PolicyRulesDeniedError
        │   ├── NetworkRulesDeniedError
        │   ├── AddressNotAllowedError
        │   ├── ClosedByPolicyError
        │   └── QuotaError               a limit, whose name is in the message
        └── AddressError                 the address cannot be had
            ├── AddressInUseError
            │   └── PortsExhaustedError  the whole pool of secondary ports is taken
            ├── AddressNotAvailableError
            └── NatAddressNotAvailableError

The names follow the error codes of the firewall-service filter API.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self


class FwproxyError(Exception):
    """The root of the tree."""


class ConfigError(FwproxyError):
    """A configuration that cannot be used; the message says what, where and what would be right.

    Attributes:
        problems: what is wrong at which place, as far as that is known. A place is the keys and
            indexes of a configuration file that lead there, such as `("listeners", 0, "bind")`.
    """

    def __init__(
        self, message: str, problems: Iterable[tuple[tuple[str | int, ...], str]] = ()
    ) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    @classmethod
    def at(cls, place: tuple[str | int, ...], problem: str, subject: str) -> Self:
        """Make an error of one problem; *subject* names the place in words."""
        return cls(f"{subject}: {problem}", [(place, problem)])


class KernelPathError(FwproxyError):
    """The kernel cannot do it; the message says why. Never raised by a call of the filter API."""


class CallError(FwproxyError):
    """A call of the filter API was refused and has changed nothing."""


class TerminatingError(CallError):
    """The session, connection or action is ending or has ended."""


class InvalidArgumentError(CallError, ValueError):
    """An argument, or a combination of arguments, is wrong; the message says which and why."""


class NotRegisteredError(CallError):
    """The filter is not loaded, or not bound to this listener."""


class AlreadyExistsError(CallError):
    """There is one already."""


class BufferFullError(CallError):
    """A bounded buffer would grow past its bound."""


class BadContextError(CallError):
    """The call is not allowed at this point of the object's life."""


class AlreadyEmulatedError(CallError):
    """A filter already plays the other end of this connection."""


class NotEmulatedError(CallError):
    """The call is only for emulated connections."""


class NotSupportedError(CallError):
    """The thing asked for is not supported here."""


class NotAuthenticatedError(CallError):
    """The rule asks for a user and the session has none."""


class BusyError(CallError):
    """Another call that excludes this one is under way."""


class NoServerReplyError(CallError):
    """The server refused the connection, did not answer in time, or its name does not resolve."""


class ServerRefusedError(NoServerReplyError):
    """The server has refused the connection."""


class ServerUnreachableError(NoServerReplyError):
    """No way leads to the server."""


class NetworkUnreachableError(ServerUnreachableError):
    """No way leads to the server's network, not only to the one host."""


class ServerTimedOutError(NoServerReplyError):
    """The server did not answer in time."""


class NameNotFoundError(NoServerReplyError):
    """The server's name does not resolve."""


class DeniedError(CallError):
    """Somebody said no: the policy, a limit, or another filter."""


class PolicyRulesDeniedError(DeniedError):
    """The access rules do not allow it."""


class NetworkRulesDeniedError(DeniedError):
    """The two networks have no relation that allows it."""


class AddressNotAllowedError(DeniedError):
    """A client address is outside the set of allowed ones, so that nothing was opened at all."""


class ClosedByPolicyError(DeniedError):
    """The policy ended a connection that was already there."""


class QuotaError(DeniedError):
    """A limit was reached; the message gives the setting's name."""


class AddressError(CallError):
    """The address asked for cannot be had."""


class AddressInUseError(AddressError):
    """The proxy address asked for is already in use."""


class PortsExhaustedError(AddressInUseError):
    """Every port of the pool for secondary listeners is taken."""


class AddressNotAvailableError(AddressError):
    """The address asked for is not an address of this computer."""


class NatAddressNotAvailableError(AddressError):
    """No address of the proxy faces the network to translate to."""
