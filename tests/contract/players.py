"""Filters that play the server of a connect, or whoever comes to a bind, and what they say."""

from rig import make_filter

from fwproxy import DataFilter, Endpoint, Verdict
from fwproxy.events import BindTcp, BindUdp, ConnectTcp

REMOTE, LOCAL = Endpoint("198.51.100.9", 20), Endpoint("203.0.113.1", 4000)


class Echo(DataFilter):
    """Plays a server that says everything twice."""

    def __init__(self):
        self.ended = self.let_go = 0

    def data_from_client(self, data):
        self.to_client.send(data * 2)

    def end_from_client(self):
        self.ended += 1
        super().end_from_client()

    def detach(self):
        self.let_go += 1


def playing(make=Echo, *events, associated=(), more=lambda event: None):
    """Make a filter that plays the server of every connect that it hears of."""

    def hear(event):
        event.connection.emulate_for_connect(make())
        return more(event)

    return make_filter("player", hear, *(events or [ConnectTcp]), associated=associated)


def emulating(*events, by_verdict=False, address=None, more=None):
    """Make a filter that plays every bind that it hears of."""

    def hear(event):
        if more is not None:
            more(event)
        if by_verdict:
            return Verdict.EMULATE
        event.connection.emulate_for_bind(address)
        return None

    return make_filter("player", hear, *(events or (BindTcp, BindUdp)))


class Speaker(DataFilter):
    """Plays somebody who says only what the test says."""

    def __init__(self):
        self.heard = []

    def data_from_client(self, data):
        self.heard.append(data)
