"""The calls that open secondary connections: binds, redirections, allowances, emulation."""
