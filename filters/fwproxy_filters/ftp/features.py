"""Editing the reply to FEAT (RFC 2389 section 3.2): what cannot work through the proxy goes.

What is left out follows from the table of commands: a feature is named after its command.
"""

from __future__ import annotations

import re

import attrs

from fwproxy_filters.ftp.replies import ReplyLine
from fwproxy_filters.ftp.verbs import RULES, CommandRule, Kind

_NAME = re.compile(rb"[\t ]*([A-Za-z0-9]+)")
_EXTENDED = frozenset({"EPRT", "EPSV"})


@attrs.frozen(slots=True)
class FeatureEditor:
    """Decides, line by line, what a client is told of the server's features.

    Attributes:
        security: keep AUTH, PROT and the other commands of RFC 2228 and RFC 4217, because a control
            connection that becomes unreadable is let through.
        extended: keep EPRT and EPSV.
        read_only: leave out features whose command writes.
    """

    security: bool = False
    extended: bool = True
    read_only: bool = False

    def is_kept(self, feature: bytes) -> bool:
        """Tell whether the client may know of *feature*, such as `AUTH TLS;SSL` or `SIZE`."""
        match = _NAME.match(feature)
        if match is None:
            return True
        name = match.group(1).decode("ascii").upper()
        if name in _EXTENDED and not self.extended:
            return False
        rule = RULES.get(name)
        return rule is None or self._is_kept(rule)

    def edit(self, line: ReplyLine) -> ReplyLine | None:
        """Return the line of a reply to FEAT as the client may see it, None to leave it out.

        The first and the last line are no features. Lines that begin with `211-` instead of a space
        are read as well.
        """
        if line.is_first or line.is_last or self.is_kept(line.text):
            return line
        return None

    def _is_kept(self, rule: CommandRule) -> bool:
        if not rule.proxied or (rule.kind is Kind.SECURITY and not self.security):
            return False
        return not (rule.writes and self.read_only)
