"""PORT, EPRT, PASV and EPSV: what the server gets, what the client hears, what is opened."""

from __future__ import annotations

import pytest
from scripted import CLIENT_V4, CLIENT_V6, SERVER_V4, SERVER_V6, Script

from fwproxy import Endpoint
from fwproxy.errors import (
    AddressNotAllowedError,
    PolicyRulesDeniedError,
    PortsExhaustedError,
    QuotaError,
)

HOSTS = {"4": (CLIENT_V4, SERVER_V4), "6": (CLIENT_V6, SERVER_V6)}
ASKED = {
    "PORT": b"PORT 10,0,0,8,20,1",
    "EPRT4": b"EPRT |1|10.0.0.8|5121|",
    "EPRT6": b"EPRT |2|fd00::8|5121|",
    "PASV": b"PASV",
    "EPSV": b"EPSV",
}
CLIENT = {"4": Endpoint(CLIENT_V4, 5121), "6": Endpoint(CLIENT_V6, 5121)}
SERVER = {"4": Endpoint(SERVER_V4, 51201), "6": Endpoint(SERVER_V6, 51201)}
UNKNOWN = {"4": Endpoint("0.0.0.0"), "6": Endpoint("::")}
OUTSIDE = {"4": Endpoint("198.51.100.1", 40000), "6": Endpoint("2001:db8::99", 40000)}

# What the server gets, by the IP versions of client and server, what the client asks and the mode.
SENT = {
    ("44", "PORT"): {"client": "PORT", "active": "PORT", "passive": "PASV"},
    ("44", "EPRT4"): {"client": "EPRT", "active": "EPRT", "passive": "PASV"},
    ("44", "PASV"): {"client": "PASV", "active": "PORT", "passive": "PASV"},
    ("44", "EPSV"): {"client": "EPSV", "active": "PORT", "passive": "EPSV"},
    ("46", "PORT"): {"client": "EPRT", "active": "EPRT", "passive": "EPSV"},
    ("46", "EPRT4"): {"client": "EPRT", "active": "EPRT", "passive": "EPSV"},
    ("46", "PASV"): {"client": "EPSV", "active": "EPRT", "passive": "EPSV"},
    ("46", "EPSV"): {"client": "EPSV", "active": "EPRT", "passive": "EPSV"},
    ("64", "EPRT6"): {"client": "PORT", "active": "PORT", "passive": "PASV"},
    ("64", "EPSV"): {"client": "PASV", "active": "PORT", "passive": "PASV"},
    ("66", "EPRT6"): {"client": "EPRT", "active": "EPRT", "passive": "EPSV"},
    ("66", "EPSV"): {"client": "EPSV", "active": "EPRT", "passive": "EPSV"},
}
CASES = [
    (versions, asked, mode, sent)
    for (versions, asked), by_mode in SENT.items()
    for mode, sent in by_mode.items()
]
SENT_LINE = {
    "PORT": b"PORT 198,51,100,1,156,64\r\n",
    "EPRT4": b"EPRT |1|198.51.100.1|40000|\r\n",
    "EPRT6": b"EPRT |2|2001:db8::99|40000|\r\n",
    "PASV": b"PASV\r\n",
    "EPSV": b"EPSV\r\n",
}
ANSWER = {
    "PORT": b"200 PORT fine\r\n",
    "EPRT": b"200 EPRT fine\r\n",
    "PASV": b"227 Entering Passive Mode (192,0,2,1,200,1).\r\n",
    "EPSV": b"229 Extended (|||51201|)\r\n",
}


def between(versions: str, **settings: object) -> Script:
    return Script(HOSTS[versions[0]][0], HOSTS[versions[1]][1], **settings)  # type: ignore[arg-type]


def told(asked: str, port: int) -> bytes:
    if asked == "PASV":
        return b"227 Entering Passive Mode (10,0,0,1,156,%d)\r\n" % (port - 39936)
    return b"229 Entering Extended Passive Mode (|||%d|)\r\n" % port


@pytest.mark.parametrize(("versions", "asked", "mode", "sent"), CASES)
def test_every_conversion(versions, asked, mode, sent):
    client, server = versions
    with between(versions, data_mode=mode) as script:
        script.client(ASKED[asked] + b"\r\n")
        line = script.got()
        assert line == SENT_LINE[sent + server if sent == "EPRT" else sent]
        assert script.heard() == b""
        script.server(ANSWER[sent])
        heard, calls = script.heard(), script.calls
        wants_active, gets_active = asked.startswith(("PORT", "EPRT")), sent in {"PORT", "EPRT"}
        if wants_active and gets_active:
            assert heard == ANSWER[sent]
            assert calls == [("bind", CLIENT[client])]
        elif wants_active:
            assert heard == b"200 %b command successful\r\n" % asked[:4].encode()
            assert calls == []
        elif gets_active:
            assert heard == told(asked, 40001)
            assert calls == [("bind", UNKNOWN[server]), ("redirect", OUTSIDE[server])]
        else:
            assert heard == told(asked, 40000)
            assert calls == [("redirect", SERVER[server])]
        assert script.is_in_step


@pytest.mark.parametrize(("versions", "asked", "mode", "sent"), CASES)
def test_every_conversion_when_the_server_refuses(versions, asked, mode, sent):
    refusal = b"425-Not\r\n425 today\r\n"
    with between(versions, data_mode=mode) as script:
        heard = script.ask(ASKED[asked], refusal)
        wants_active, gets_active = asked.startswith(("PORT", "EPRT")), sent in {"PORT", "EPRT"}
        if wants_active == gets_active:
            assert heard == refusal
        else:
            assert heard == b"425 The server refuses the data connection\r\n"
        assert not script.open
        assert script.is_in_step


@pytest.mark.parametrize("asked", ["PORT", "EPRT4", "PASV", "EPSV"])
def test_a_multi_line_success_is_one_reply(asked):
    answer = {"PASV": b"227-a\r\n227-b\r\n227 (192,0,2,1,200,1)\r\n",
              "EPSV": b"229-a\r\n229 (|||51201|)\r\n"}  # fmt: skip
    with Script() as script:
        heard = script.ask(ASKED[asked], answer.get(asked, b"200-a\r\n200 b\r\n"))
        assert heard == (told(asked, 40000) if asked in answer else b"200-a\r\n200 b\r\n")
    with Script(data_mode="active") as script:
        heard = script.ask(ASKED[asked], b"200-a\r\n b\r\n200 c\r\n")
        assert heard == (told(asked, 40001) if asked in answer else b"200-a\r\n b\r\n200 c\r\n")


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


# Calls that are refused.


@pytest.mark.parametrize("asked", ["PORT", "PASV", "EPSV"])
@pytest.mark.parametrize("mode", ["client", "active"])
@pytest.mark.parametrize("call", ["bind", "redirect"])
@pytest.mark.parametrize("error", [PortsExhaustedError, PolicyRulesDeniedError, QuotaError])
def test_what_the_firewall_refuses(asked, mode, call, error, log):
    with Script(data_mode=mode) as script:
        script.refuse(call, error("no more"))
        heard = script.ask(ASKED[asked], ANSWER[SENT["44", asked][mode]])
        refused = any(name == call for name, *_ in script.calls)
        assert heard.startswith(b"425 Cannot open a data connection\r\n") == refused
        if refused:
            assert not script.open
            (warning,) = [line for line in log if line["log_level"] == "warning"]
            assert warning["reason"] == "no more"
        script.refuse(call, None)
        again = script.ask(ASKED[asked], ANSWER[SENT["44", asked][mode]])
        assert again.startswith((b"2", b"425" if refused and asked == "PORT" else b"2"))


def test_an_address_that_the_firewall_does_not_allow_is_the_clients_fault():
    with Script() as script:
        script.refuse("bind", AddressNotAllowedError("not yours"))
        script.client(ASKED["PORT"] + b"\r\n")
        assert script.heard() == b"501 This address is not allowed\r\n"


# One after the other.


@pytest.mark.parametrize("first", ["PORT", "EPRT4", "PASV", "EPSV"])
@pytest.mark.parametrize("second", ["PORT", "EPRT4", "PASV", "EPSV"])
@pytest.mark.parametrize("mode", ["client", "active", "passive"])
def test_the_next_setup_withdraws_the_last(first, second, mode):
    with Script(data_mode=mode) as script:
        script.ask(ASKED[first], ANSWER[SENT["44", first][mode]])
        before = set(script.open)
        script.client(ASKED[second] + b"\r\n")
        assert not before & script.open
        script.server(ANSWER[SENT["44", second][mode]])
        assert script.heard().startswith(b"2")
        is_double = mode == "active" and second in {"PASV", "EPSV"}
        is_later = mode == "passive" and second in {"PORT", "EPRT4"}
        assert len(script.open) == (0 if is_later else 2 if is_double else 1)


@pytest.mark.parametrize(
    "lines", [b"PASV\r\nPASV\r\n", b"PORT 10,0,0,8,20,1\r\nPASV\r\n", b"PASV\r\nEPSV\r\n"]
)
def test_two_at_once(lines):
    with Script() as script:
        script.client(lines)
        while sent := script.got().splitlines():
            for line in sent:
                script.server(ANSWER[line.split()[0].decode()])
        assert [line[:1] for line in script.heard().splitlines()] == [b"2", b"2"]
        assert len(script.open) == 1
        assert script.is_in_step


def test_pasv_and_then_port_at_once():
    with Script() as script:
        script.client(b"PASV\r\nPORT 10,0,0,8,20,1\r\n").server(ANSWER["PASV"], ANSWER["PORT"])
        assert script.heard() == told("PASV", 40000) + ANSWER["PORT"]
        assert script.open == {script.data[0].connection}


# Both sides wait: the proxy connects when the transfer starts.


def test_both_sides_are_connected_when_the_transfer_starts():
    with Script(data_mode="passive") as script:
        script.ask(b"PORT 10,0,0,8,20,1", ANSWER["PASV"])
        assert not script.calls
        script.ask(b"REST 10", b"350 Ok\r\n")
        script.ask(b"TYPE I", b"200 Ok\r\n")
        assert not script.calls
        script.got()
        script.client(b"RETR f\r\n")
        assert script.got() == b"RETR f\r\n"
        assert script.calls == [("connect", CLIENT["4"], SERVER["4"])]
        script.data[-1].established()
        script.server(b"150 a\r\n226 b\r\n")
        assert script.heard().endswith(b"150 a\r\n226 b\r\n")


def test_a_transfer_that_does_not_wait_for_the_answer_to_its_port():
    with Script(data_mode="passive") as script:
        script.client(b"PORT 10,0,0,8,20,1\r\nRETR f\r\n")
        assert script.got() == b"PASV\r\n"
        script.server(ANSWER["PASV"])
        assert script.got() == b"RETR f\r\n"
        assert script.calls == [("connect", CLIENT["4"], SERVER["4"])]


def test_both_wait_and_one_of_them_refuses():
    with Script(data_mode="passive") as script:
        script.ask(b"PORT 10,0,0,8,20,1", ANSWER["PASV"])
        script.client(b"RETR f\r\n")
        script.heard()
        script.data[-1].fail()
        assert script.heard() == b"425 Cannot open a data connection\r\n"
        script.server(b"425 Nobody came\r\n")
        assert script.heard() == b""
        assert script.is_in_step


def test_both_wait_and_the_firewall_says_no(log):
    with Script(data_mode="passive") as script:
        script.ask(b"PORT 10,0,0,8,20,1", ANSWER["PASV"])
        script.refuse("connect", PolicyRulesDeniedError("not there"))
        script.client(b"RETR f\r\n")
        assert script.heard().endswith(b"425 Cannot open a data connection\r\n")
        script.server(b"425 Nobody came\r\n")
        assert script.is_in_step
        script.client(b"RETR f\r\n")
        assert script.heard() == b"425 Cannot open a data connection\r\n"
    assert [line["reason"] for line in log if line["log_level"] == "warning"] == ["not there"]


def test_both_wait_and_the_end_comes_first():
    with Script(data_mode="passive") as script:
        script.ask(b"PORT 10,0,0,8,20,1", ANSWER["PASV"])
        script.client(b"QUIT\r\n")
        script.ask(b"RETR f", b"425 No\r\n")
        assert not script.calls


def test_a_transfer_refused_before_it_began_leaves_the_permission_for_the_next():
    with Script() as script:
        script.ask(b"PASV", ANSWER["PASV"])
        assert script.ask(b"RETR missing", b"550 No such file\r\n") == b"550 No such file\r\n"
        assert len(script.open) == 1
        script.come().established()
        assert script.ask(b"LIST", b"150 a\r\n226 b\r\n") == b"150 a\r\n226 b\r\n"


def test_a_transfer_that_failed_on_its_way_leaves_no_permission():
    with Script() as script:
        script.ask(b"PASV", ANSWER["PASV"])
        script.ask(b"RETR f", b"150 a\r\n425 Nobody came\r\n")
        assert not script.open


def test_the_server_and_the_client_both_come():
    with Script(data_mode="active") as script:
        script.ask(b"PASV", ANSWER["PORT"])
        script.data[-1].server_comes()
        assert script.come() is script.data[-1]
        script.data[-1].established()
        assert script.ask(b"RETR f", b"150 a\r\n226 b\r\n") == b"150 a\r\n226 b\r\n"
        assert not script.open
