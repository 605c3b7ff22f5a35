"""What all sessions of one `Firewall` share: loop, policy, ports, quotas, data paths."""
