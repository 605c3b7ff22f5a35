"""Steps of a handshake, and what every handshake can do.

The one who drives it shows `step` all the bytes that have come and are not used yet, as often as
more have come, and takes away as many as the step says. What comes after the last step has never
left the socket then, and belongs to the relay.
"""

from __future__ import annotations

import abc
import enum

import attrs

from fwproxy.address import Destination, Endpoint


class Command(enum.Enum):
    """What a client wants from the proxy."""

    CONNECT = "connect"
    BIND = "bind"
    ASSOCIATE = "associate"


class Outcome(enum.Enum):
    """What has become of a request; each handshake has its own codes for them."""

    GRANTED = "granted"
    FAILED = "failed"
    NOT_ALLOWED = "not allowed"
    BUSY = "busy"
    """A limit is reached; later it may be granted."""
    NETWORK_UNREACHABLE = "network unreachable"
    HOST_UNREACHABLE = "host unreachable"
    REFUSED = "refused"
    TIMED_OUT = "timed out"
    NAME_UNKNOWN = "name unknown"
    UNSUPPORTED = "unsupported"


@attrs.frozen(slots=True)
class Say:
    """The client is to be sent something; then the handshake goes on.

    Attributes:
        used: how many of the bytes shown this step has used up.
        data: what to send.
    """

    used: int
    data: bytes


@attrs.frozen(slots=True)
class Login:
    """A user name and a password; `Handshake.logged_in` is to be told whether they are right."""

    used: int
    user: str
    password: bytes = attrs.field(repr=False)


@attrs.frozen(slots=True)
class Request:
    """The client has said what it wants: the handshake is over but for the replies.

    Attributes:
        used: as above.
        command: what it wants.
        destination: where to, or from where. All zeros stand for "not known".
    """

    used: int
    command: Command
    destination: Destination


@attrs.frozen(slots=True)
class Refusal:
    """The handshake has failed: send *data*, and close.

    Attributes:
        used: as above.
        data: the reply, which may be empty.
        reason: for the log.
    """

    used: int
    data: bytes
    reason: str


Step = Say | Login | Request | Refusal


class Handshake(abc.ABC):
    """One client's handshake.

    Attributes:
        name: what the log calls it.
        max_size: the most bytes that a step may need; with so many shown and no step found, the
            client is refused with `too_long`.
    """

    name: str
    max_size: int

    @abc.abstractmethod
    def step(self, data: bytes) -> Step | None:
        """Return the next step, or None if more bytes are needed; *data* is not empty."""

    def logged_in(self, ok: bool) -> Say | Refusal | None:  # noqa: FBT001 - an answer
        """Hear whether the last `Login` is right; return what to send, if anything."""
        raise NotImplementedError

    @abc.abstractmethod
    def too_long(self) -> Refusal:
        """Refuse a client that has sent `max_size` bytes without an end."""

    @abc.abstractmethod
    def reply(self, outcome: Outcome, address: Endpoint) -> bytes:
        """Return the answer to the request.

        Args:
            outcome: what has become of it.
            address: the proxy's address for it, or its peer; all zeros if there is none.
        """
