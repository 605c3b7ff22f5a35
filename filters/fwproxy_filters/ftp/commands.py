"""A line from the client, taken apart into verb and argument (RFC 959 section 5.3).

A verb is 1 to `MAX_VERB_LENGTH` ASCII letters and digits, at the very start of the line, and one
space follows it if there is an argument. Servers differ in what else they take for a verb or a
space (a tab, leading blanks, `P@SW`), so everything else is refused here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from fwproxy_filters.ftp.errors import FtpSyntaxError
from fwproxy_filters.ftp.verbs import (
    HARMLESS_SITE_COMMANDS,
    OTHER_PROTOCOLS,
    RULES,
    Argument,
    CommandRule,
)

MAX_VERB_LENGTH = 12
"""Bytes in a verb; the longest in the table has seven."""

_RULES_BY_BYTES = {
    spelled: rule
    for verb, rule in RULES.items()
    for spelled in (verb.encode("ascii"), verb.lower().encode("ascii"))
}
_MDTM_WRITES = re.compile(rb" *[0-9]{8}[^ ]* +[^ ]")


class Command(NamedTuple):
    """One command of the client.

    Attributes:
        verb: in capitals.
        argument: what follows the space after the verb, exactly; None without a space.
        rule: what the table says about the verb, None if it is not there.
        raw: the line as it came, without its terminator.
    """

    verb: str
    argument: bytes | None
    rule: CommandRule | None
    raw: bytes

    @property
    def wire(self) -> bytes:
        """The command for the server, made anew: capitals, one space, CRLF."""
        if self.argument is None:
            return self.verb.encode("ascii") + b"\r\n"
        return b"%b %b\r\n" % (self.verb.encode("ascii"), self.argument)

    @property
    def writes(self) -> bool:
        """Whether the command can change what the server stores; an unknown one can.

        MDTM with a time stamp before the file name sets the time on many servers, and SITE does
        whatever its own first word says.
        """
        if self.rule is None:
            return True
        if self.verb == "SITE":
            words = (self.argument or b"").split(maxsplit=1)
            return not words or words[0].upper() not in HARMLESS_SITE_COMMANDS
        if self.verb == "MDTM":
            return bool(_MDTM_WRITES.match(self.argument or b""))
        return self.rule.writes

    @property
    def is_foreign(self) -> bool:
        """Whether this is HTTP or SMTP on an FTP connection: a request forged through a browser."""
        return self.verb in OTHER_PROTOCOLS

    @property
    def loggable(self) -> str:
        """The command for the log: no secrets, no control characters.

        Of SITE only the first word is shown (it changes passwords on some servers), of an unknown
        verb nothing but the verb.
        """
        if self.argument is None:
            return self.verb
        if self.verb == "SITE":
            word, _, rest = self.argument.lstrip().partition(b" ")
            return f"SITE {_printable(word)}{' ****' if rest else ''}"
        if self.rule is None or self.rule.secret:
            return f"{self.verb} ****"
        return f"{self.verb} {_printable(self.argument)}"

    def check_argument(self) -> None:
        """Check that there is an argument if there must be one, and none if there must not.

        Raises:
            FtpSyntaxError: with 501.
        """
        if self.rule is None:
            return
        given = bool(self.argument and not self.argument.isspace())
        if given and self.rule.argument is Argument.NONE:
            raise FtpSyntaxError(501, f"{self.verb} takes no argument")
        if not given and self.rule.argument is Argument.REQUIRED:
            raise FtpSyntaxError(501, f"{self.verb} needs an argument")

    def __repr__(self) -> str:
        return f"<Command {self.loggable}>"


def parse_command(line: bytes) -> Command:
    """Take apart *line*, which has no terminator.

    Raises:
        FtpSyntaxError: with 500, if it does not begin with a verb.
    """
    head, space, rest = line.partition(b" ")
    rule = _RULES_BY_BYTES.get(head)
    if rule is not None:
        return Command(rule.verb, rest if space else None, rule, line)
    if not head.isalnum() or len(head) > MAX_VERB_LENGTH:
        raise FtpSyntaxError(500, "Syntax error, this is not a command")
    verb = head.decode("ascii").upper()
    return Command(verb, rest if space else None, RULES.get(verb), line)


def _printable(text: bytes) -> str:
    decoded = text.decode("utf-8", "backslashreplace")
    if decoded.isprintable():
        return decoded
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in decoded)
