"""The proxy's own ports: the pool, ports held in reserve, and the sockets that hold them."""
