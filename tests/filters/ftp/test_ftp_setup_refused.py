"""Replies to PASV and EPSV that cannot be used, and addresses that the client may not name."""

from __future__ import annotations

import pytest
from conversions import ANSWER, ASKED, CLIENT, SENT, SENT_LINE, SERVER, between, told
from scripted import CLIENT_V4, SERVER_V4, Script

from fwproxy import Endpoint

# Replies that cannot be used: the client is told 425, nothing is opened, the channel goes on.


@pytest.mark.parametrize(
    "reply",
    [
        b"227 ok\r\n",
        b"227 (192,0,2,1,200)\r\n",
        b"227 (192,0,2,1,200,1,1)\r\n",
        b"227 (192,0,2,256,200,1)\r\n",
        b"227 (192,0,2,1,256,1)\r\n",
        b"227 (192,0,2,1,0,0)\r\n",
        b"227 (192,0,2,-1,200,1)\r\n",
        b"227 (192.0.2.1.200.1)\r\n",
        b"227 (192,0,2,1,200,1) (192,0,2,1,200,2)\r\n",
        b"227 (192,0,2,1,3,255)\r\n",
        b"227 (0x7f,0,0,1,200,1)\r\n",
        b"229 (|||51201|)\r\n",
        b"200 Ok\r\n",
        b"257 Here (192,0,2,1,200,1)\r\n",
        b"227-(192,0,2,1,200,1)\r\n227 ok\r\n",
    ],
)
def test_replies_to_pasv_that_cannot_be_used(reply, log):
    with Script() as script:
        assert script.ask(b"PASV", reply) == b"425 Cannot open a data connection\r\n"
        assert not script.calls
        assert script.is_in_step
    assert [line["event"] for line in log if line["log_level"] == "warning"] == [
        "data connection refused"
    ]


@pytest.mark.parametrize(
    "reply",
    [
        b"229 (|||0|)\r\n",
        b"229 (|||65536|)\r\n",
        b"229 (|||1023|)\r\n",
        b"229 (|1|10.9.9.9|51201|)\r\n",
        b"229 (||||51201|)\r\n",
        b"229 |||51201|\r\n",
        b"229 (|||51201|) (|||51202|)\r\n",
        b"229 (|!|51201|)\r\n",
        b"227 (192,0,2,1,200,1)\r\n",
        b"200 Ok\r\n",
    ],
)
def test_replies_to_epsv_that_cannot_be_used(reply):
    with Script() as script:
        assert script.ask(b"EPSV", reply) == b"425 Cannot open a data connection\r\n"
        assert not script.calls
        assert script.is_in_step


def test_a_preliminary_reply_to_pasv_is_kept_back():
    with Script() as script:
        assert script.ask(b"PASV", b"150 (9,9,9,9,9,9)\r\n") == b""
        script.server(ANSWER["PASV"])
        assert script.heard() == told("PASV", 40000)


@pytest.mark.parametrize(
    ("settings", "target"),
    [
        ({}, Endpoint(SERVER_V4, 51201)),
        ({"passive_address": "ignore"}, Endpoint(SERVER_V4, 51201)),
        ({"passive_address": "allow"}, Endpoint("10.9.9.9", 51201)),
        ({"passive_address": "strict"}, None),
    ],
)
def test_a_server_that_names_another_host(settings, target):
    with Script(**settings) as script:
        heard = script.ask(b"PASV", b"227 (10,9,9,9,200,1)\r\n")
        if target is None:
            assert heard == b"425 Cannot open a data connection\r\n"
            assert script.calls == []
        else:
            assert heard == told("PASV", 40000)
            assert script.calls == [("redirect", target)]


@pytest.mark.parametrize("mode", ["strict", "ignore", "allow"])
def test_a_server_that_names_itself(mode):
    with Script(passive_address=mode) as script:
        assert script.ask(b"PASV", ANSWER["PASV"]) == told("PASV", 40000)


@pytest.mark.parametrize("low_ports", [True, False])
def test_low_ports_of_the_server(low_ports):
    with Script(low_ports=low_ports) as script:
        heard = script.ask(b"PASV", b"227 (192,0,2,1,0,20)\r\n")
        assert heard.startswith(b"227 " if low_ports else b"425 ")
        assert script.ask(b"EPSV", b"229 (|||1023|)\r\n").startswith(
            b"229 " if low_ports else b"425 "
        )


# Addresses that the client may not name: nothing is opened, nothing reaches the server.


@pytest.mark.parametrize("mode", ["client", "passive"])
@pytest.mark.parametrize(
    ("versions", "said", "code"),
    [
        ("44", b"PORT 10,0,0,9,20,1", 501),
        ("44", b"PORT 192,0,2,1,20,1", 501),
        ("44", b"PORT 127,0,0,1,20,1", 501),
        ("44", b"EPRT |1|10.0.0.9|5121|", 501),
        ("44", b"EPRT |2|fd00::8|5121|", 522),
        ("44", b"EPRT |3|10.0.0.8|5121|", 522),
        ("44", b"PORT 10,0,0,8,0,0", 501),
        ("44", b"PORT 10,0,0,8,3,255", 501),
        ("44", b"PORT 10,0,0,8,0,21", 501),
        ("44", b"PORT 10,0,0,8,20", 501),
        ("44", b"PORT 10,0,0,8,20,1,1", 501),
        ("44", b"PORT 10,0,0,256,20,1", 501),
        ("44", b"PORT 10,0,0,8,256,1", 501),
        ("44", b"PORT 10,0,0,08,20,1", 501),
        ("44", b"PORT 10,0,0,+8,20,1", 501),
        ("44", b"PORT 10, 0,0,8,20,1", 501),
        ("44", b"PORT 10.0.0.8.20.1", 501),
        ("44", b"PORT a,b,c,d,e,f", 501),
        ("44", b"PORT", 501),
        ("44", b"EPRT", 501),
        ("44", b"EPRT |1|10.0.0.8|", 501),
        ("44", b"EPRT |1|10.0.0.8|0|", 501),
        ("44", b"EPRT |1|10.0.0.8|65536|", 501),
        ("44", b"EPRT |1|10.0.0.8|1023|", 501),
        ("44", b"EPRT |1|fd00::8|5121|", 501),
        ("44", b"EPRT |1|10.0.0.8|5121|x", 501),
        ("44", b"EPRT 1|10.0.0.8|5121", 501),
        ("66", b"EPRT |2|fd00::9|5121|", 501),
        ("66", b"EPRT |2|::ffff:10.0.0.8|5121|", 501),
        ("66", b"EPRT |2|fd00::8%eth0|5121|", 501),
        ("66", b"EPRT |1|10.0.0.8|5121|", 522),
        ("66", b"PORT 10,0,0,8,20,1", 522),
        ("64", b"PORT 10,0,0,8,20,1", 522),
    ],
)
def test_addresses_that_are_refused(versions, said, code, mode):
    with between(versions, data_mode=mode) as script:
        script.client(said + b"\r\n")
        assert script.heard().startswith(b"%d " % code)
        assert script.got() == b""
        assert not script.open
        assert script.is_in_step


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ("44", b"PORT 0,0,0,0,20,1"),
        ("44", b"EPRT |1|0.0.0.0|5121|"),
        ("64", b"EPRT |2|::|5121|"),
    ],
)
def test_an_address_of_all_zeros_is_the_clients_own(versions, said):
    """lftp names it, and most servers refuse it."""
    with between(versions) as script:
        assert script.ask(said, b"200 Ok\r\n") == b"200 Ok\r\n"
        assert script.calls == [("bind", CLIENT[versions[0]])]
    with between(versions, data_mode="passive") as script:
        script.ask(said, ANSWER["PASV"])
        script.client(b"RETR f\r\n")
        assert script.calls == [("connect", CLIENT[versions[0]], SERVER["4"])]


@pytest.mark.parametrize("versions", ["64", "66"])
def test_pasv_is_for_ipv4(versions):
    with between(versions) as script:
        script.client(b"PASV\r\n")
        assert script.heard() == b"522 Network protocol not supported, use (2)\r\n"
        assert script.got() == b""


def test_low_ports_of_the_client():
    with Script(low_ports=True) as script:
        assert script.ask(b"PORT 10,0,0,8,0,21", b"200 Ok\r\n") == b"200 Ok\r\n"
        assert script.calls == [("bind", Endpoint(CLIENT_V4, 21))]


@pytest.mark.parametrize(
    ("versions", "said", "reply"),
    [
        ("44", b"EPSV 1", None),
        ("44", b"EPSV", None),
        ("44", b"EPSV 2", b"522 Network protocol not supported, use (1)\r\n"),
        ("46", b"EPSV 2", b"522 Network protocol not supported, use (1)\r\n"),
        ("66", b"EPSV 2", None),
        ("64", b"epsv 2", None),
        ("64", b"EPSV 1", b"522 Network protocol not supported, use (2)\r\n"),
        ("44", b"EPSV 3", b"522 Network protocol not supported, use (1)\r\n"),
        ("44", b"EPSV x", b"501 EPSV takes a network protocol or ALL\r\n"),
    ],
)
def test_epsv_with_an_argument(versions, said, reply):
    with between(versions) as script:
        script.client(said + b"\r\n")
        assert script.heard() == (reply or b"")
        assert bool(script.got()) == (reply is None)


@pytest.mark.parametrize("mode", ["client", "active", "passive"])
def test_after_epsv_all_only_epsv_is_allowed_and_the_server_does_not_know(mode):
    with Script(data_mode=mode) as script:
        script.client(b"EPSV all\r\n")
        assert script.heard() == b"200 EPSV ALL command successful\r\n"
        for verb in ("PASV", "PORT", "EPRT4"):
            script.client(ASKED[verb] + b"\r\n")
            assert script.heard().startswith(b"503 ")
        assert script.got() == b""
        assert not script.calls
        sent = SENT["44", "EPSV"][mode]
        assert script.ask(b"EPSV", ANSWER[sent]).startswith(b"229 ")
        assert script.got() == SENT_LINE[sent]


def test_epsv_all_is_answered_in_its_turn():
    with Script() as script:
        script.client(b"NOOP\r\nEPSV ALL\r\n")
        assert script.heard() == b""
        script.server(b"200 Noop\r\n")
        assert script.heard() == b"200 Noop\r\n200 EPSV ALL command successful\r\n"
