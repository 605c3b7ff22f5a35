"""fwproxy: an application proxy whose filters open the secondary connections a protocol asks for.

The rooms, each importing only rows above it (`tests/test_layers.py` checks it)::

    errors  version  intervals
    address  clock  bounds  problems
    protocol
    flags  events
    filter
    kit/
    policy/
    config/
    handshake/
    registry  log  argon2_hash  users
    ports/  names/
    ledger/  shared/
    datapath/
    engine/  dispatch
    connection/  logins
    secondary/
    session/
    listeners/
    firewall
    demo  testing/  service/
    cli  __main__
"""

from __future__ import annotations

from fwproxy.address import Destination, Endpoint, HostName, IpFilter, Transport
from fwproxy.config.config import Config
from fwproxy.config.file import load as load_config
from fwproxy.config.listeners import ListenerConfig, ListenerKind
from fwproxy.connection.connection import Connection
from fwproxy.filter import (
    DataFilter,
    Ends,
    Filter,
    FilterSocket,
    Handled,
    Hooks,
    Priority,
    SessionFilter,
)
from fwproxy.firewall import Firewall
from fwproxy.flags import ConnectionFlags, SecondaryFlags, SessionFlags, Verdict
from fwproxy.ledger.ledger import FirewallAction, LedgerEntry
from fwproxy.ports.reservation import PortReservation
from fwproxy.protocol import ProtocolDefinition
from fwproxy.secondary.client_binds import BindAnswer
from fwproxy.secondary.outbound import Redirection
from fwproxy.session.access import HostAccess
from fwproxy.session.session import Session
from fwproxy.session.sharing import SharedRedirection
from fwproxy.version import __version__

__all__ = [
    "BindAnswer",
    "Config",
    "Connection",
    "ConnectionFlags",
    "DataFilter",
    "Destination",
    "Endpoint",
    "Ends",
    "Filter",
    "FilterSocket",
    "Firewall",
    "FirewallAction",
    "Handled",
    "Hooks",
    "HostAccess",
    "HostName",
    "IpFilter",
    "LedgerEntry",
    "ListenerConfig",
    "ListenerKind",
    "PortReservation",
    "Priority",
    "ProtocolDefinition",
    "Redirection",
    "SecondaryFlags",
    "Session",
    "SessionFilter",
    "SessionFlags",
    "SharedRedirection",
    "Transport",
    "Verdict",
    "__version__",
    "load_config",
]
