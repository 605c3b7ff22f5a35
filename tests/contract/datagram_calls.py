"""The calls for datagrams, as the tests of UDP secondaries make them."""

from calls import redirect
from rig import make_filter

from fwproxy import Transport

UDP = Transport.UDP


def secondary_of(primary):
    (secondary,) = primary.session.connections - {primary.connection}
    return secondary


async def redirect_udp(primary, target, **settings):
    made = await redirect(primary, target, transport=UDP, **settings)
    return made.internal_address


def attaching_at(event, make, *, associated=()):
    def hear(heard):
        heard.connection.attach_data_filter(make())

    events = [] if event in associated else [event]
    return make_filter("probe", hear, *events, associated=associated)
