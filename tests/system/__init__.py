"""Real FTP servers and clients, on loopback and in network namespaces."""
