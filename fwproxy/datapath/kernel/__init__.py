"""Secondary connections that the kernel carries: nftables translates, conntrack tells."""
