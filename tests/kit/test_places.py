"""Addresses found in the messages of real protocols, and put in the place of one another."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fwproxy.address import Endpoint, HostName
from fwproxy.kit.endpoints import (
    CountedHost,
    DecimalAddress,
    EndpointError,
    FamilyError,
    HostPort,
)
from fwproxy.kit.places import (
    Edit,
    Place,
    SplitPlace,
    all_edits,
    counted_host,
    find_host_ports,
    find_six_numbers,
    find_urls,
)
from fwproxy.kit.rewrite import (
    apply_edits,
    counted,
    fix_content_length,
    read_bulk,
    read_counted,
)
from fwproxy.testing.strategies import endpoints

PROXY4, PROXY6 = Endpoint("192.0.2.1", 40000), Endpoint("2001:db8::40", 40000)
SDP_WORDS = {4: b"IP4 ", 6: b"IP6 "}
PORTS = {"sip": 5060, "sips": 5061, "rtsp": 554, "opc.tcp": 4840}
LONGEST = 4096


def replaced(message, place, new):
    return apply_edits(message, place.edits(new), max_length=LONGEST)


def span(pattern, message):
    return re.search(pattern, message).span(1)


# One protocol after the other.


def test_ftp_passive_reply():
    reply = b"Entering Passive Mode (10,0,0,8,6,17)."
    place = find_six_numbers(reply)
    assert place.destination == Endpoint("10.0.0.8", 1553)
    assert replaced(reply, place, PROXY4) == b"Entering Passive Mode (192,0,2,1,156,64)."
    with pytest.raises(FamilyError):
        place.edits(PROXY6)


INVITE = (
    b"INVITE sip:bob@10.0.0.8 SIP/2.0\r\nContact: <sip:ann@10.0.0.7:5062;transport=udp>\r\n"
    b"Content-Length: 54\r\n\r\n"
    b"v=0\r\nc=IN IP4 10.0.0.7\r\nm=audio 49170 RTP/AVP 0 8 97\r\n"
)


def test_sip_with_sdp_of_the_other_family():
    media = SplitPlace.at(
        INVITE, span(rb"c=IN (IP4 \S+)", INVITE), span(rb"m=audio (\d+)", INVITE), SDP_WORDS
    )
    assert media.destination == Endpoint("10.0.0.7", 49170)
    urls = {place.destination: place for place in find_urls(INVITE, PORTS)}
    assert set(urls) == {Endpoint("10.0.0.8", 5060), Endpoint("10.0.0.7", 5062)}
    contact = urls[Endpoint("10.0.0.7", 5062)]
    edits = [*media.edits(PROXY6), *contact.edits(PROXY6.with_port(5060))]
    assert fix_content_length(apply_edits(INVITE, edits, max_length=LONGEST)) == (
        b"INVITE sip:bob@10.0.0.8 SIP/2.0\r\n"
        b"Contact: <sip:ann@[2001:db8::40]:5060;transport=udp>\r\nContent-Length: 58\r\n\r\n"
        b"v=0\r\nc=IN IP6 2001:db8::40\r\nm=audio 40000 RTP/AVP 0 8 97\r\n"
    )


def test_rtsp_transport():
    header = (
        b"Transport: RTP/AVP;unicast;source=10.0.0.8;client_port=5000-5001;server_port=6970-6971"
    )
    place = SplitPlace.at(
        header, span(rb"source=([^;]+)", header), span(rb"server_port=(\d+)", header)
    )
    assert place.destination == Endpoint("10.0.0.8", 6970)
    second = span(rb"server_port=\d+-(\d+)", header)
    edits = [*place.edits(PROXY6), Edit(*second, b"40001")]
    assert apply_edits(header, edits, max_length=LONGEST) == (
        b"Transport: RTP/AVP;unicast;source=2001:db8::40;client_port=5000-5001;"
        b"server_port=40000-40001"
    )


def test_redis_moved():
    codec = HostPort(brackets=False, same_host="10.0.0.8")
    for line, where in (
        (b"-MOVED 3999 10.0.0.9:6381", Endpoint("10.0.0.9", 6381)),
        (b"-MOVED 3999 :6381", Endpoint("10.0.0.8", 6381)),
        (b"-MOVED 3999 2001:db8::9:6381", Endpoint("2001:db8::9", 6381)),
        (b"-ASK 3999 node-9.example:6381", HostName("node-9.example", 6381)),
    ):
        place = Place.at(line, line.rindex(b" ") + 1, len(line), codec)
        assert place.destination == where
        assert replaced(line, place, PROXY4) == line[: place.start] + b"192.0.2.1:40000"


def test_redis_bulk_strings_in_cluster_nodes():
    node = b"07c3 10.0.0.9:6381 master\n"
    message = b"$%d\r\n%b\r\n+OK\r\n" % (len(node), node)
    bulk = read_bulk(message, 0, max_length=LONGEST)
    (place,) = find_host_ports(bulk.data)
    new = replaced(bulk.data, place, PROXY6)
    assert apply_edits(message, [bulk.edit(new)], max_length=LONGEST) == (
        b"$33\r\n07c3 [2001:db8::40]:40000 master\n\r\n+OK\r\n"
    )


def test_kafka_brokers_in_a_frame():
    broker = b"\0\0\0\x01" + CountedHost().format(HostName("broker-1.example", 9092)) + b"\xff\xff"
    frame = counted(b"\0\0\0\x07" + broker, ">i")
    body = read_counted(frame, 0, ">i", max_length=LONGEST)
    place = counted_host(body.data, 8, CountedHost())
    assert place.destination == HostName("broker-1.example", 9092)
    new = replaced(body.data, place, PROXY4)
    rewritten = apply_edits(frame, [body.edit(new)], max_length=LONGEST)
    assert rewritten == counted(b"\0\0\0\x07\0\0\0\x01\0\x09192.0.2.1\0\0\x9c\x40\xff\xff", ">i")


def test_opc_ua_endpoint_urls():
    url = b"opc.tcp://plc-7.example:4841/server?x=1"
    message = b"\0\0" + counted(url, "<i") + b"\x01"
    text = read_counted(message, 2, "<i", max_length=LONGEST)
    (place,) = find_urls(text.data, PORTS)
    assert place.destination == HostName("plc-7.example", 4841)
    new = replaced(text.data, place, PROXY6)
    assert apply_edits(message, [text.edit(new)], max_length=LONGEST) == (
        b"\0\0" + counted(b"opc.tcp://[2001:db8::40]:40000/server?x=1", "<i") + b"\x01"
    )


def test_irc_dcc():
    line = b"PRIVMSG bob :\x01DCC SEND cat.jpg 167772167 5000 1234\x01"
    place = Place.at(line, *span(rb"(\d+ \d+) \d+\x01", line), DecimalAddress())
    assert place.destination == Endpoint("10.0.0.7", 5000)
    assert b"cat.jpg 3221225985 40000 1234\x01" in replaced(line, place, PROXY4)
    assert b"cat.jpg 2001:db8::40 40000 1234\x01" in replaced(line, place, PROXY6)


# Finding.


@pytest.mark.parametrize(
    "text",
    [
        b"10.0.0.8", b"10.0.0.8:0", b"10.0.0.8:65536", b"256.0.0.8:80", b"1.10.0.0.8:80",
        b"10.0.0.8:80:80", b"x10.0.0.8:80", b"10.0.0.8:80x", b"10.0.0.8:80.5", b"10.0.0.08:80",
        b"user@10.0.0.8:80", b"[10.0.0.8]:80", b"[::1", b"2001:db8::1:80", b"node.example:80",
        b"-10.0.0.8:80", b"[2001:db8::1]:80]",
    ],
)  # fmt: skip
def test_what_only_looks_like_an_address_is_not_found(text):
    assert list(find_host_ports(b"see " + text + b" there")) == []


def test_every_literal_address_is_found():
    text = b"at 10.0.0.8:80, [2001:db8::1]:81; (10.0.0.9:82). 10.0.0.7:83"
    found = [str(place.destination) for place in find_host_ports(text)]
    assert found == ["10.0.0.8:80", "[2001:db8::1]:81", "10.0.0.9:82", "10.0.0.7:83"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (b"sip:ann@10.0.0.7", "10.0.0.7:5060"),
        (b"sip:10.0.0.7:70", "10.0.0.7:70"),
        (b"SIP:ann:pw@[2001:db8::1]:70;x", "[2001:db8::1]:70"),
        (b"sip:+1;phone-context=a@10.0.0.7", "10.0.0.7:5060"),
        (b"rtsp://[2001:db8::1]/movie", "[2001:db8::1]:554"),
        (b'"opc.tcp://plc:1"', "plc:1"),
        (b"http://10.0.0.7/", None),
        (b"rtsp://10.0.0.7:99999/", None),
        (b"rtsp://ab.cd:80x/", None),
        (b"rtsp://ab.cd:80:80/", None),
        (b"rtsp://ab.cd@@10.0.0.7/", None),
        (b"xsip:10.0.0.7", None),
        (b"sip:" + b"a;" * 300 + b"@10.0.0.7", None),
        (b"rtsp://10.0.0.7.8/", None),
    ],
)
def test_the_host_of_a_url(text, where):
    found = [str(place.destination) for place in find_urls(b"x " + text + b" y", PORTS)]
    assert found == ([] if where is None else [where])


def test_looking_for_addresses_takes_time_by_the_length_only():
    for text in (
        b"sip:" * 20_000,
        b"a:" * 40_000,
        b"1," * 40_000,
        b"1.1.1.1:" * 10_000,
        b"[" * 80_000,
    ):
        before = time.process_time()
        list(find_urls(text, PORTS))
        list(find_host_ports(text))
        find_six_numbers(text)
        assert time.process_time() - before < 2


LOOSE = st.lists(
    st.sampled_from(
        [
            b"10.0.0.8",
            b"[2001:db8::1]",
            b"sip:",
            b"rtsp://",
            b":80",
            b"@",
            b".",
            b",",
            b"9",
            b" ",
            b"a",
        ]
    ),
    max_size=12,
).map(b"".join)


@given(LOOSE | st.binary(max_size=60))
@settings(max_examples=200)
def test_nothing_is_found_that_does_not_stand_there(text):
    six = find_six_numbers(text)
    places = [*find_host_ports(text), *find_urls(text, PORTS), *([six] if six else [])]
    for place in places:
        literal = text[place.start : place.end]
        assert place.codec.parse(literal.replace(b" ", b"")) == place.destination
        host = place.destination.host.encode()
        assert host in literal.replace(b",", b".") or b":" in host
        port = b":%d" % place.destination.port
        assert literal.endswith(port) or place is six or b"sip:" in text or b"rtsp:" in text


# Replacing.


@given(old=endpoints(), new=endpoints(), before=st.binary(max_size=9), after=st.binary(max_size=9))
@settings(max_examples=100)
def test_only_the_address_differs(old, new, before, after):
    codec = HostPort()
    message = before + codec.format(old) + after
    place = Place.at(message, len(before), len(message) - len(after), codec)
    changed = apply_edits(message, place.edits(new), max_length=LONGEST)
    assert changed == before + codec.format(new) + after
    again = Place.at(changed, len(before), len(changed) - len(after), codec)
    assert apply_edits(changed, again.edits(old), max_length=LONGEST) == message


def test_only_the_addresses_that_are_known_are_replaced():
    text = b"10.0.0.8:80 10.0.0.9:80 10.0.0.8:80"
    new = {Endpoint("10.0.0.8", 80): PROXY6}
    edits = all_edits(find_host_ports(text), new)
    assert apply_edits(text, edits, max_length=LONGEST) == (
        b"[2001:db8::40]:40000 10.0.0.9:80 [2001:db8::40]:40000"
    )
    with pytest.raises(FamilyError):
        all_edits(find_host_ports(text), new, same_family=True)


def test_a_host_and_a_port_apart_are_held_to_the_same_rules():
    text = b"IP4 10.0.0.8 80"
    for host_span, port_span in (((4, 12), (13, 15)), ((0, 12), (12, 15))):
        with pytest.raises(EndpointError):
            SplitPlace.at(text, host_span, port_span, SDP_WORDS)
    with pytest.raises(EndpointError):
        SplitPlace.at(b"IP4 2001:db8::1 80", (0, 15), (16, 18), SDP_WORDS)
    place = SplitPlace.at(text, (0, 12), (13, 15), {4: b"IP4 "})
    for new in (PROXY6, HostName("node", 80), PROXY4.with_port(0)):
        with pytest.raises(EndpointError):
            place.edits(new)
    with pytest.raises(FamilyError):
        SplitPlace.at(text, (0, 12), (13, 15), SDP_WORDS).edits(PROXY6, same_family=True)
