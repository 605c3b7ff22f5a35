"""Flags and verdicts of the filter API."""

from __future__ import annotations

import enum


class SecondaryFlags(enum.Flag):
    """How a secondary connection may be used; the default is one connection, kept until killed."""

    NONE = 0
    ALLOW_MULTIPLE = enum.auto()
    """More than one connection (TCP) or source (UDP) is expected."""
    TIMEOUT = enum.auto()
    """Expire unused permissions; UDP expires when idle."""
    NO_KERNEL_MODE = enum.auto()
    """Carry every connection through user space even if the kernel could."""
    ADDRESS_BASED = enum.auto()
    """Bind the permission to the client's address and not to its session."""
    BIDIRECTIONAL = enum.auto()
    """UDP: datagrams may also go to destinations that recently sent."""
    PROXY_MODE = enum.auto()
    """Translate the source address across a NAT relation (full proxy mode)."""
    ALLOW_ADDRESSES_IN_CLASS_C_NETWORK = enum.auto()
    """Client addresses may be anywhere in the client's /24."""
    ALLOW_ADDRESSES_IN_NETWORK = enum.auto()
    """Client addresses may be anywhere in the client's configured network."""
    ALLOW_ADDRESSES_ALL = enum.auto()
    """Client addresses may be anything: opens the way to bounce attacks."""
    INCREASE_RECEIVE_BUFFER = enum.auto()
    """UDP: a receive buffer of 64 KiB, against losses in bursts."""
    IGNORE_RESTRICTED_PORTS = enum.auto()
    """Client ports below 1024 may be used."""


class ConnectionFlags(enum.Flag):
    """What is true of one connection."""

    NONE = 0
    SECONDARY = enum.auto()
    INTERNAL_ADDRESS_TRANSLATION = enum.auto()
    """Full proxy mode: the server sees an address of the proxy (S26)."""
    EMULATED = enum.auto()
    TERMINATED = enum.auto()


class SessionFlags(enum.Flag):
    """What is true of one session."""

    NONE = 0
    NAT = enum.auto()
    AUTHENTICATED = enum.auto()
    TERMINATED = enum.auto()
    PRIVATE = enum.auto()


class Verdict(enum.Enum):
    """What a session filter says to an event."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    ALLOW = "allow"
    DENY = "deny"
    EMULATE = "emulate"
