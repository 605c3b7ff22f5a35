"""What a client says before the bytes of its protocol: SOCKS, HTTP CONNECT, the PROXY header.

Bytes in, steps out; nothing here knows of sockets, and nothing keeps bytes.
"""
