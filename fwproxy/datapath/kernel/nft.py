"""nftables commands, run by libnftables inside this process.

No process is started, and the text is what `nft` itself takes and prints. But before each command
the library asks for all there is, chains, rules and sets, because it may have changed: that takes
longer than a pinhole may. So what has to be quick goes through `ElementSocket` instead, by the
netlink socket of the same context: a table with `flags owner` is that socket's, obeys no other, and
lives exactly as long.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from typing import Any

from fwproxy.datapath.kernel.element_socket import netfilter_sockets
from fwproxy.errors import KernelPathError

_LIBRARY = "libnftables.so.1"
_TERSE = 1 << 11
"""NFT_CTX_OUTPUT_TERSE: no elements of sets and maps."""
_STATELESS = 1 << 2


class Nftables:
    """One context of libnftables. Not for more than one thread.

    Raises:
        KernelPathError: the library is not installed.
    """

    def __init__(self) -> None:
        try:
            library = ctypes.CDLL(_LIBRARY, use_errno=True)
        except OSError as error:
            raise KernelPathError(f"{_LIBRARY} is not installed (nftables)") from error
        self._library: Any = _declared(library)
        self._others = netfilter_sockets().items()
        self._context: int | None = library.nft_ctx_new(0)
        if not self._context:
            raise KernelPathError(f"{_LIBRARY} gives no context")
        library.nft_ctx_buffer_error(self._context)
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_output_set_flags(self._context, _TERSE | _STATELESS)

    def run(self, commands: str) -> str:
        """Run commands as one transaction: all of them or none; return what they print.

        Raises:
            KernelPathError: the kernel refuses; the message is the first line that nft says.
        """
        if self._context is None:
            raise KernelPathError("nftables has been closed")
        failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output = self._library.nft_ctx_get_output_buffer(self._context)
        if failed:
            error = self._library.nft_ctx_get_error_buffer(self._context)
            raise KernelPathError(_first_line(error) or os.strerror(ctypes.get_errno()))
        return (output or b"").decode(errors="replace")

    def sockets(self) -> Iterator[socket.socket]:
        """Yield copies of what is, or may be, the context's socket; the caller closes them."""
        for fd, _ in netfilter_sockets().items() - self._others:
            yield socket.socket(fileno=os.dup(fd))

    def close(self) -> None:
        """Close the context; what it owns in the kernel goes with it."""
        if self._context is not None:
            self._library.nft_ctx_free(self._context)
            self._context = None


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    context = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_new.restype = context
    library.nft_ctx_free.argtypes = [context]
    library.nft_ctx_free.restype = None
    library.nft_run_cmd_from_buffer.argtypes = [context, ctypes.c_char_p]
    library.nft_ctx_output_set_flags.argtypes = [context, ctypes.c_uint]
    library.nft_ctx_output_set_flags.restype = None
    for name in ("nft_ctx_buffer_error", "nft_ctx_buffer_output"):
        getattr(library, name).argtypes = [context]
    for name in ("nft_ctx_get_error_buffer", "nft_ctx_get_output_buffer"):
        getattr(library, name).argtypes = [context]
        getattr(library, name).restype = ctypes.c_char_p
    return library


def _first_line(error: bytes | None) -> str:
    line = (error or b"").decode(errors="replace").strip().partition("\n")[0]
    return line.removeprefix("Error: ")
