"""Every FTP command, one row each: RFC 959 and its successors, and what servers really offer.

`tests/filters/ftp/test_ftp_commands.py` holds the table against the IANA registry (RFC 5797).
"""

from __future__ import annotations

import enum

import attrs


class Argument(enum.Enum):
    """Whether a command has an argument."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"


class Kind(enum.Enum):
    """What a command is about."""

    ACCESS = "access"
    """Who is logged in, and where to."""
    SECURITY = "security"
    """Protection of the connections, RFC 2228 and RFC 4217."""
    DATA_SETUP = "data setup"
    """Where the next data connection goes."""
    PARAMETER = "parameter"
    """How the next transfer is done."""
    TRANSFER = "transfer"
    """Uses the data connection."""
    SERVICE = "service"
    """Everything else."""


@attrs.frozen(slots=True)
class CommandRule:
    """What is known of one command.

    Attributes:
        verb: in capitals.
        source: the document that defines it.
        argument: whether it has an argument.
        kind: what it is about.
        writes: whether it can change what the server stores, as far as the verb alone tells.
        secret: whether its argument must not be logged.
        before_login: whether it has a use before the user is logged in.
        proxied: whether it can work through a proxy at all; those that cannot set up data
            connections in a way that is not translated.
    """

    verb: str
    source: str
    argument: Argument
    kind: Kind
    writes: bool = False
    secret: bool = False
    before_login: bool = False
    proxied: bool = True


_NONE, _OPTIONAL, _REQUIRED = Argument.NONE, Argument.OPTIONAL, Argument.REQUIRED
_SECURITY, _SETUP, _TRANSFER = Kind.SECURITY, Kind.DATA_SETUP, Kind.TRANSFER
_ACCESS, _PARAMETER, _SERVICE = Kind.ACCESS, Kind.PARAMETER, Kind.SERVICE
_HASH = "draft-bryan-ftp-hash"
_MFXX = "draft-somers-ftp-mfxx"
_STREAMLINED = "draft-peterson-streamlined-ftp-command-extensions"

_ROWS = (
    # Access control, RFC 959 section 4.1.1
    CommandRule("USER", "RFC 959", _REQUIRED, _ACCESS, before_login=True),
    CommandRule("PASS", "RFC 959", _OPTIONAL, _ACCESS, secret=True, before_login=True),
    CommandRule("ACCT", "RFC 959", _REQUIRED, _ACCESS, secret=True, before_login=True),
    CommandRule("REIN", "RFC 959", _NONE, _ACCESS, before_login=True),
    CommandRule("QUIT", "RFC 959", _NONE, _ACCESS, before_login=True),
    CommandRule("HOST", "RFC 7151", _REQUIRED, _ACCESS, before_login=True),
    # Security, RFC 2228; AUTH TLS is RFC 4217
    CommandRule("AUTH", "RFC 2228", _REQUIRED, _SECURITY, before_login=True),
    CommandRule("ADAT", "RFC 2228", _REQUIRED, _SECURITY, secret=True, before_login=True),
    CommandRule("PBSZ", "RFC 2228", _REQUIRED, _SECURITY, before_login=True),
    CommandRule("PROT", "RFC 2228", _REQUIRED, _SECURITY, before_login=True),
    CommandRule("CCC", "RFC 2228", _NONE, _SECURITY, before_login=True),
    CommandRule("MIC", "RFC 2228", _REQUIRED, _SECURITY, secret=True, before_login=True),
    CommandRule("CONF", "RFC 2228", _REQUIRED, _SECURITY, secret=True, before_login=True),
    CommandRule("ENC", "RFC 2228", _REQUIRED, _SECURITY, secret=True, before_login=True),
    CommandRule("SSCN", "glFTPd, ProFTPD", _OPTIONAL, _SECURITY),
    # Where the data connection goes
    CommandRule("PORT", "RFC 959", _REQUIRED, _SETUP),
    CommandRule("PASV", "RFC 959", _NONE, _SETUP),
    CommandRule("EPRT", "RFC 2428", _REQUIRED, _SETUP),
    CommandRule("EPSV", "RFC 2428", _OPTIONAL, _SETUP),
    CommandRule("LPRT", "RFC 1639", _REQUIRED, _SETUP, proxied=False),
    CommandRule("LPSV", "RFC 1639", _NONE, _SETUP, proxied=False),
    CommandRule("CPSV", "glFTPd", _NONE, _SETUP, proxied=False),
    CommandRule("SPSV", "Pure-FTPd", _OPTIONAL, _SETUP, proxied=False),
    # How a transfer is done
    CommandRule("TYPE", "RFC 959", _REQUIRED, _PARAMETER),
    CommandRule("STRU", "RFC 959", _REQUIRED, _PARAMETER),
    CommandRule("MODE", "RFC 959", _REQUIRED, _PARAMETER),
    CommandRule("REST", "RFC 3659", _REQUIRED, _PARAMETER),
    CommandRule("RANG", "draft-bryan-ftp-range", _REQUIRED, _PARAMETER),
    CommandRule("PRET", "DrFTPD", _REQUIRED, _PARAMETER),
    # Transfers
    CommandRule("RETR", "RFC 959", _REQUIRED, _TRANSFER),
    CommandRule("STOR", "RFC 959", _REQUIRED, _TRANSFER, writes=True),
    CommandRule("STOU", "RFC 959", _OPTIONAL, _TRANSFER, writes=True),
    CommandRule("APPE", "RFC 959", _REQUIRED, _TRANSFER, writes=True),
    CommandRule("LIST", "RFC 959", _OPTIONAL, _TRANSFER),
    CommandRule("NLST", "RFC 959", _OPTIONAL, _TRANSFER),
    CommandRule("MLSD", "RFC 3659", _OPTIONAL, _TRANSFER),
    CommandRule("THMB", _STREAMLINED, _REQUIRED, _TRANSFER),
    CommandRule("MLFL", "RFC 765", _OPTIONAL, _TRANSFER, writes=True),
    # Files and directories
    CommandRule("ALLO", "RFC 959", _REQUIRED, _SERVICE, writes=True),
    CommandRule("RNFR", "RFC 959", _REQUIRED, _SERVICE, writes=True),
    CommandRule("RNTO", "RFC 959", _REQUIRED, _SERVICE, writes=True),
    CommandRule("DELE", "RFC 959", _REQUIRED, _SERVICE, writes=True),
    CommandRule("RMD", "RFC 959", _REQUIRED, _SERVICE, writes=True),
    CommandRule("MKD", "RFC 959", _REQUIRED, _SERVICE, writes=True),
    CommandRule("XRMD", "RFC 775", _REQUIRED, _SERVICE, writes=True),
    CommandRule("XMKD", "RFC 775", _REQUIRED, _SERVICE, writes=True),
    CommandRule("RMDA", _STREAMLINED, _REQUIRED, _SERVICE, writes=True),
    CommandRule("COMB", _STREAMLINED, _REQUIRED, _SERVICE, writes=True),
    CommandRule("MFMT", _MFXX, _REQUIRED, _SERVICE, writes=True),
    CommandRule("MFCT", _MFXX, _REQUIRED, _SERVICE, writes=True),
    CommandRule("MFF", _MFXX, _REQUIRED, _SERVICE, writes=True),
    CommandRule("CWD", "RFC 959", _OPTIONAL, _SERVICE),
    CommandRule("XCWD", "RFC 1123", _OPTIONAL, _SERVICE),
    CommandRule("CDUP", "RFC 959", _NONE, _SERVICE),
    CommandRule("XCUP", "RFC 775", _NONE, _SERVICE),
    CommandRule("PWD", "RFC 959", _NONE, _SERVICE),
    CommandRule("XPWD", "RFC 775", _NONE, _SERVICE),
    CommandRule("SMNT", "RFC 959", _REQUIRED, _SERVICE),
    CommandRule("SIZE", "RFC 3659", _REQUIRED, _SERVICE),
    CommandRule("DSIZ", _STREAMLINED, _OPTIONAL, _SERVICE),
    CommandRule("MDTM", "RFC 3659", _REQUIRED, _SERVICE),
    CommandRule("MLST", "RFC 3659", _OPTIONAL, _SERVICE),
    CommandRule("AVBL", _STREAMLINED, _OPTIONAL, _SERVICE),
    # Checksums
    CommandRule("HASH", _HASH, _REQUIRED, _SERVICE),
    CommandRule("MD5", "draft-twine-ftpmd5", _REQUIRED, _SERVICE),
    CommandRule("MMD5", "draft-twine-ftpmd5", _REQUIRED, _SERVICE),
    CommandRule("XCRC", _STREAMLINED, _REQUIRED, _SERVICE),
    CommandRule("XMD5", _STREAMLINED, _REQUIRED, _SERVICE),
    CommandRule("XSHA", _STREAMLINED, _REQUIRED, _SERVICE),
    CommandRule("XSHA1", _STREAMLINED, _REQUIRED, _SERVICE),
    CommandRule("XSHA256", _STREAMLINED, _REQUIRED, _SERVICE),
    CommandRule("XSHA384", _STREAMLINED, _REQUIRED, _SERVICE),
    CommandRule("XSHA512", _STREAMLINED, _REQUIRED, _SERVICE),
    # The server and the session
    CommandRule("ABOR", "RFC 959", _NONE, _SERVICE, before_login=True),
    CommandRule("NOOP", "RFC 959", _OPTIONAL, _SERVICE, before_login=True),
    CommandRule("HELP", "RFC 959", _OPTIONAL, _SERVICE, before_login=True),
    CommandRule("SYST", "RFC 959", _NONE, _SERVICE, before_login=True),
    CommandRule("STAT", "RFC 959", _OPTIONAL, _SERVICE, before_login=True),
    CommandRule("FEAT", "RFC 2389", _NONE, _SERVICE, before_login=True),
    CommandRule("OPTS", "RFC 2389", _REQUIRED, _SERVICE, before_login=True),
    CommandRule("LANG", "RFC 2640", _OPTIONAL, _SERVICE, before_login=True),
    CommandRule("CLNT", "ProFTPD, FileZilla Server", _REQUIRED, _SERVICE, before_login=True),
    CommandRule("CSID", _STREAMLINED, _REQUIRED, _SERVICE, before_login=True),
    CommandRule("ESTA", "Pure-FTPd", _NONE, _SERVICE),
    CommandRule("ESTP", "Pure-FTPd", _NONE, _SERVICE),
    CommandRule("SITE", "RFC 959", _REQUIRED, _SERVICE, writes=True, before_login=True),
)

RULES: dict[str, CommandRule] = {row.verb: row for row in _ROWS}
"""The table by verb in capitals."""

HARMLESS_SITE_COMMANDS = frozenset({b"HELP", b"IDLE", b"TIME", b"WHO", b"QUOTA", b"DIRSTYLE"})
"""What SITE can do without writing; every other SITE command counts as writing."""

OTHER_PROTOCOLS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PRI"}
    | {"HELO", "EHLO"}
)
"""Verbs of HTTP and SMTP, which no FTP client ever sends, but a browser can be made to."""
