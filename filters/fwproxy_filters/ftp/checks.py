"""Which commands the settings let through."""

from __future__ import annotations

from fwproxy_filters.ftp.commands import Command
from fwproxy_filters.ftp.errors import FtpSyntaxError
from fwproxy_filters.ftp.settings import FtpSettings
from fwproxy_filters.ftp.verbs import Kind


def check_command(command: Command, settings: FtpSettings, *, is_for_gateway: bool = False) -> None:
    """Make sure that a command may be used.

    Args:
        command: the client's.
        settings: the listener's.
        is_for_gateway: it names a server to a gateway, and what it would do at one is no matter.

    Raises:
        FtpSyntaxError: with the reply that the client gets.
    """
    rule = command.rule
    command.check_argument()
    limit = settings.argument_limits.get(command.verb)
    if limit is not None and len(command.argument or b"") > limit:
        raise FtpSyntaxError(501, f"The argument of {command.verb} is too long")
    if command.verb in settings.deny or (settings.allow and command.verb not in settings.allow):
        raise FtpSyntaxError(502, f"{command.verb} is not allowed here")
    if is_for_gateway:
        return
    if rule is None and settings.unknown_commands == "refuse" and not settings.allow:
        raise FtpSyntaxError(500, "Unknown command")
    if rule is not None and not rule.proxied:
        raise FtpSyntaxError(502, f"{command.verb} cannot work through a proxy")
    if settings.read_only and command.writes:
        raise FtpSyntaxError(550, "Permission denied, this is read-only")
    if rule is not None and rule.kind is Kind.SECURITY and settings.tls == "refuse":
        code = 534 if command.verb == "AUTH" else 503
        raise FtpSyntaxError(code, "TLS is not available through this proxy")
