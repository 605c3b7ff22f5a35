"""HTTP CONNECT: targets, logins, and correct errors."""

import base64

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from steps import drive, essence, in_two

from fwproxy.address import Endpoint, HostName
from fwproxy.handshake.base import Command, Outcome, Refusal, Request, Say
from fwproxy.handshake.http_connect import MAX_HEAD, MAX_LOGINS, HttpConnect


def parsed(response: bytes) -> tuple[int, dict[str, str]]:
    """Read a response as a client would: nothing may be wrong with it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="CONNECT", target="a:1", headers=[("Host", "a:1")]))
    client.receive_data(response)
    event = client.next_event()
    assert isinstance(event, h11.Response)
    return event.status_code, {name.decode(): value.decode() for name, value in event.headers}


def connect(target: str, *headers: str, version: str = "1.1") -> bytes:
    lines = [f"CONNECT {target} HTTP/{version}", f"Host: {target}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def basic(user: str, password: str) -> str:
    return "Proxy-Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


TWICE = f"{basic('a', 'b')}\r\n{basic('a', 'b')}"


@pytest.mark.parametrize(
    ("data", "destination"),
    [
        (connect("a.example:443"), HostName("a.example", 443)),
        (connect("198.51.100.9:21"), Endpoint("198.51.100.9", 21)),
        (connect("[2001:db8::9]:21", "User-Agent: x"), Endpoint("2001:db8::9", 21)),
        (b"CONNECT a.example:80 HTTP/1.0\r\n\r\n", HostName("a.example", 80)),
        (b"CONNECT a.example:80 HTTP/1.0\n\n", HostName("a.example", 80)),
        (connect("a.example:443", "Content-Length: 0"), HostName("a.example", 443)),
    ],
)
def test_a_request_is_read_at_every_cut_and_what_follows_is_left(data, destination):
    for pieces in in_two(data + b"\x16more"):
        steps, rest = drive(HttpConnect(needs_login=False), pieces)
        assert essence(steps) == [(Command.CONNECT, destination)]
        assert steps[0].used == len(data)
        assert rest == b"\x16more"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 405),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", 405),
        (connect("a.example"), 400),
        (connect("a.example:0"), 400),
        (connect("a.example:99999"), 400),
        (connect(":443"), 400),
        (connect("a.example:443", "Content-Length: 5"), 400),
        (connect("a.example:443", "Transfer-Encoding: chunked"), 400),
        (b"CONNECT a:1\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01", 400),
        (b"\r\nCONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nx: " + b"y" * MAX_HEAD, 431),
    ],
)
def test_a_wrong_request_has_a_correct_error(data, status):
    (refusal,), _ = drive(HttpConnect(needs_login=False), [data])
    assert isinstance(refusal, Refusal)
    found, headers = parsed(refusal.data)
    assert found == status
    assert headers["connection"] == "close"
    assert headers["content-length"] == "0"
    assert ("allow" in headers) == (status == 405)


def test_a_right_login_lets_in_at_every_cut():
    data = connect("a.example:443", basic("anna", "sec:ret ü"))
    for pieces in in_two(data):
        steps, rest = drive(
            HttpConnect(needs_login=True), pieces, passwords={"anna": "sec:ret ü".encode()}
        )
        assert essence(steps)[-1] == (Command.CONNECT, HostName("a.example", 443))
        assert not rest


def test_a_client_without_login_is_asked_and_may_try_again():
    """As clients do that send no password before they are asked."""
    handshake = HttpConnect(needs_login=True)
    data = [
        connect("a:1"),
        connect("a:1", basic("anna", "bad")),
        connect("a:1", basic("anna", "p")),
    ]
    steps, rest = drive(handshake, data, passwords={"anna": b"p"})
    first, second, third = (step for step in steps if isinstance(step, Say | Request))
    for say in (first, second):
        status, headers = parsed(say.data)
        assert status == 407
        assert headers["proxy-authenticate"].startswith('Basic realm="fwproxy"')
    assert isinstance(third, Request)
    assert not rest


def test_guesses_on_one_connection_are_counted():
    data = [connect("a:1", basic("anna", str(guess))) for guess in range(MAX_LOGINS)]
    steps, _ = drive(HttpConnect(needs_login=True), data)
    status, headers = parsed(steps[-1].data)
    assert isinstance(steps[-1], Refusal)
    assert (status, headers["connection"]) == (407, "close")


@pytest.mark.parametrize("header", ["Proxy-Authorization: Digest x", TWICE])
def test_other_logins_than_one_by_basic_are_asked_for_again(header):
    (say,), _ = drive(HttpConnect(needs_login=True), [connect("a:1", header)])
    assert parsed(say.data)[0] == 407


def test_a_login_that_is_not_in_base_64_is_a_bad_request():
    header = "Proxy-Authorization: Basic !!!"
    (refusal,), _ = drive(HttpConnect(needs_login=True), [connect("a:1", header)])
    assert parsed(refusal.data)[0] == 400


@pytest.mark.parametrize("outcome", Outcome)
def test_each_outcome_is_a_correct_response(outcome):
    reply = HttpConnect(needs_login=False).reply(outcome, Endpoint("0.0.0.0"))
    status, headers = parsed(reply)
    assert (status == 200) == (outcome is Outcome.GRANTED)
    if outcome is Outcome.GRANTED:
        assert not headers, "a tunnel has neither length nor encoding (RFC 9110 9.3.6)"
    else:
        assert headers["proxy-status"].startswith("fwproxy; error=")
        assert headers["connection"] == "close"


@given(st.booleans(), st.lists(st.binary(max_size=60), max_size=8))
def test_anything_ends_in_a_request_a_refusal_or_patience(needs_login, pieces):
    steps, _ = drive(HttpConnect(needs_login=needs_login), [b"CONNECT a:1 ", *pieces])
    assert sum(isinstance(step, Request | Refusal) for step in steps) <= 1


@pytest.mark.parametrize(
    "request_bytes",
    [
        connect("a:21", "Proxy-Authorization : Basic U0VDUkVU"),
        connect("a:21", "Proxy-Authorization Basic U0VDUkVU"),
        connect("a:21", "Proxy-Authorization: Basic U0VDUkVU!"),
        connect("a:21", "Proxy-Authorization: Digest U0VDUkVU", version="1.0"),
        b"Proxy-Authorization: Basic U0VDUkVU\r\n\r\n",
        connect("anna:U0VDUkVU@a:21"),
        connect("ftp://anna:U0VDUkVU@a:21/"),
    ],
)
def test_no_refusal_repeats_what_may_be_a_password(request_bytes):
    (step,), _ = drive(HttpConnect(needs_login=True), [request_bytes])
    assert isinstance(step, Refusal)
    assert "U0VDUkVU" not in step.reason + repr(step.data)
