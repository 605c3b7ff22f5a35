"""What can be wrong with what an FTP peer says, with the reply that says so.

::

    FwproxyError
    └── FtpSyntaxError                  a command, an argument or a reply that cannot be read
        ├── ProtocolNotSupportedError   EPRT or EPSV with an unknown network protocol: 522
        └── MalformedReplyError         the server's stream is no longer FTP replies
"""

from __future__ import annotations

from collections.abc import Sequence

from fwproxy.errors import FwproxyError


class FtpSyntaxError(FwproxyError):
    """A peer broke the syntax of RFC 959 or of one of its successors.

    Attributes:
        reply_code: the code of the reply that the client may be given.
        text: the text of that reply; it holds nothing that a peer sent.
    """

    def __init__(self, reply_code: int, text: str) -> None:
        super().__init__(f"{reply_code} {text}")
        self.reply_code = reply_code
        self.text = text

    @property
    def reply(self) -> bytes:
        """The whole reply line for the client."""
        return f"{self.reply_code} {self.text}\r\n".encode("ascii")


class ProtocolNotSupportedError(FtpSyntaxError):
    """The network protocol number is not among the *supported* ones (RFC 2428 section 2)."""

    def __init__(self, supported: Sequence[int]) -> None:
        numbers = ",".join(map(str, supported))
        super().__init__(522, f"Network protocol not supported, use ({numbers})")


class MalformedReplyError(FtpSyntaxError):
    """The server sent what is not an FTP reply; the connection has no further use."""

    def __init__(self, detail: str) -> None:
        super().__init__(421, "The server's reply cannot be read, closing the connection")
        self.detail = detail

    def __str__(self) -> str:
        return f"the server's reply cannot be read: {self.detail}"
