"""fwproxy: an application proxy whose filters open the secondary connections a protocol asks for.

The rooms, each importing only rows above it (`tests/test_layers.py` checks it)::

    errors  version  intervals
    address  clock  bounds
    protocol
    flags  events
    flag_rules
    times  scope  networks
    rules
    policy
    filter
    kit/
    problems  toml_lines
    shared_config  listener_config  rule_check
    config
    handshake/
    structure
    config_file  registry  log  argon2_hash  users
    port_sockets  reservation  ports  quotas  ledger_file  ledger  expected  resolve
    logins
    shared_memory  shared
    datapath/
    kernel_mode
    engine
    sources  grants  waiting_port
    dispatch  introduction  naming  carrying  opening
    connection_facts  connection_calls  connection
    factories  datagrams  address_check  secondary  kernel_calls  emulation  inbound  outbound
    terms  services
    access  client_binds  future  sharing
    holdings
    session_calls  session
    listeners/
    passing
    firewall
    demo  testing  host  catalogue  rule_words  kernel_abilities  overview  setup_rules
    routing
    privileges  service  cli  __main__
"""

from __future__ import annotations

from fwproxy.access import HostAccess
from fwproxy.address import Destination, Endpoint, HostName, IpFilter, Transport
from fwproxy.client_binds import BindAnswer
from fwproxy.config import Config
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
from fwproxy.listener_config import ListenerConfig, ListenerKind
from fwproxy.outbound import Redirection
from fwproxy.protocol import ProtocolDefinition
from fwproxy.reservation import PortReservation
from fwproxy.session import Session
from fwproxy.sharing import SharedRedirection
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
