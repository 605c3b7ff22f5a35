"""Sessions whose rule or listener grants so much and no more, and all that a filter can ask for."""

import contextlib

import pytest
from calls import own
from rig import HOST, PROBE_DATA, open_world

from fwproxy import Endpoint, Transport
from fwproxy.config.shared import SharedAllow, SharedConfig
from fwproxy.policy.policy import Rule

PLACES = pytest.mark.parametrize("place", ["rule", "listener"])


@contextlib.asynccontextmanager
async def scoped(scope, place="rule", **settings):
    """Run a session whose rule or listener grants that much."""
    if place == "rule":
        settings.setdefault("rules", (Rule(allow=True, secondary=scope, name="narrow"),))
    else:
        settings["listener"] = {"secondary": scope}
    async with open_world(**settings) as world:
        yield world, await world.primary()


def nothing_is_open(world, primary):
    """Make sure that nothing came of a refused call."""
    assert world.engine.ports.in_use == len(world.engine.ledger) == len(world.engine.expected) == 0
    assert len(world.engine.shared) == 0
    assert not primary.session.permissions
    assert primary.session.connections == {primary.connection}


def every_call(primary, transport=Transport.TCP, server=None):
    """Return what a filter can call, each in a form that works where nothing is restricted."""
    session, server = primary.session, server or primary.connection.server_address
    target, data = Endpoint(HOST, 50123), {"protocol": PROBE_DATA, "transport": transport}
    calls = {
        "bind": lambda: session.bind_for_client([own()], **data),
        "redirect": lambda: session.redirect_connections([target], **data),
        "connect": lambda: session.connect_for_client(own(), target, protocol=PROBE_DATA),
        "allow": lambda: session.allow_future_connect(server.with_port(50123), **data),
        "emulate": lambda: session.emulate_client_bind(own(), Endpoint(HOST, 50124), **data),
        "share": lambda: session.share_redirection(target, protocol=PROBE_DATA),
    }
    if transport is Transport.UDP:
        del calls["connect"], calls["share"]
    return calls


SHARED = SharedConfig(allow=(SharedAllow(prefixes=("127.0.0.0/8",), names=("*.example",)),))
"""Anything may be shared, as far as `[shared]` goes."""
