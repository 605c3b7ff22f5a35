"""PORT, EPRT, PASV and EPSV: what the server gets, what the client hears, what is opened."""

from __future__ import annotations

import pytest
from conversions import ANSWER, ASKED, CLIENT, SENT, SENT_LINE, SERVER, between, told
from scripted import Script

from fwproxy import Endpoint
from fwproxy.errors import (
    AddressNotAllowedError,
    PolicyRulesDeniedError,
    PortsExhaustedError,
    QuotaError,
)

UNKNOWN = {"4": Endpoint("0.0.0.0"), "6": Endpoint("::")}
OUTSIDE = {"4": Endpoint("198.51.100.1", 40000), "6": Endpoint("2001:db8::99", 40000)}
CASES = [
    (versions, asked, mode, sent)
    for (versions, asked), by_mode in SENT.items()
    for mode, sent in by_mode.items()
]


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
