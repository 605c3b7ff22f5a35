"""fwproxy: an application proxy whose filters open the secondary connections a protocol asks for.

The rooms, each importing only rows above it (`tests/test_layers.py` checks it)::

    errors  version
    address  clock
    protocol
    flags  events
    policy
    filter
    kit/
    problems  toml_lines
    config
    structure
    config_file  registry  log
    ports  ledger  resolve
    datapath/
    engine
    dispatch  naming  carrying  opening  connection_facts  connection_calls  connection
    factories  datagrams  secondary  emulation  inbound  outbound  session
    listeners/
    firewall
    demo  testing  host  catalogue  overview
    service  cli  __main__
"""

from __future__ import annotations

from fwproxy.address import Destination, Endpoint, HostName, IpFilter, Transport
from fwproxy.config import Config, ListenerConfig, ListenerKind
from fwproxy.config_file import load as load_config
from fwproxy.connection import Connection
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
from fwproxy.ledger import FirewallAction, LedgerEntry
from fwproxy.outbound import Redirection
from fwproxy.protocol import ProtocolDefinition
from fwproxy.session import Session
from fwproxy.version import __version__

__all__ = [
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
    "HostName",
    "IpFilter",
    "LedgerEntry",
    "ListenerConfig",
    "ListenerKind",
    "Priority",
    "ProtocolDefinition",
    "Redirection",
    "SecondaryFlags",
    "Session",
    "SessionFilter",
    "SessionFlags",
    "Transport",
    "Verdict",
    "__version__",
    "load_config",
]
