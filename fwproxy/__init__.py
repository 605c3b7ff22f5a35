"""fwproxy: an application proxy whose filters open the secondary connections a protocol asks for.

The rooms, each importing only rows above it (`tests/test_layers.py` checks it)::

    errors  version
    address
    flags  events
    protocol
    policy
    filter
    kit/
    config  config_file  registry  log
    clock  ports  ledger
    datapath/
    connection  session  dispatch
    listeners/
    firewall
    demo  testing
    cli  __main__
"""

from __future__ import annotations
