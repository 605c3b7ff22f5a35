"""A web server for files, plain and with TLS: `web.py HOST PORT TLS_PORT DIRECTORY CERTIFICATE`.

The certificate's file holds its key too.
"""

from __future__ import annotations

import functools
import socket
import ssl
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    def __init__(self, address: tuple[str, int], directory: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        handler = functools.partial(SimpleHTTPRequestHandler, directory=directory)
        super().__init__(address, handler)


def main(host: str, port: str, tls_port: str, directory: str, certificate: str) -> None:
    plain, secure = Server((host, int(port)), directory), Server((host, int(tls_port)), directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    threading.Thread(target=secure.serve_forever, daemon=True).start()
    print("started", flush=True)
    plain.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
