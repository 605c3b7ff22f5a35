"""fwproxy as a program: what `run`, `check`, `filters` and `setup-rules` do on this host."""
