"""`python -m fwproxy`, the same as the command `fwproxy`."""

from __future__ import annotations

from fwproxy.cli import main

main(prog_name="fwproxy")
