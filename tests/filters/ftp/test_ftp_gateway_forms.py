"""The forms of logins at a gateway, in scripted sessions: who hears what, and what is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
from scripted import GATEWAY_SECRETS, Script

from fwproxy import Endpoint
from fwproxy.address import HostName
from fwproxy.errors import NoServerReplyError, PolicyRulesDeniedError
from fwproxy.testing import assert_all_alike, every_split
from fwproxy_filters.ftp.gateway import MAX_LOGINS, WELCOME, WELCOME_TO_USERS

SERVER = Endpoint("192.0.2.1", 21)
ANSWERS = {b"USER": b"331 Password?\r\n", b"PASS": b"230 Logged in\r\n", b"QUIT": b"221 Bye\r\n"}
AT_GATEWAY = [b"USER anna", b"PASS open-sesame"]
AT_SERVER = [b"USER joe", b"PASS for-the-server"]


@attrs.frozen
class Form:
    """What a client says, line by line, and the codes that it hears."""

    name: str
    says: Sequence[bytes]
    hears: Sequence[int]
    server_hears: Sequence[bytes] = AT_SERVER

    @property
    def stream(self) -> bytes:
        return b"".join(line + b"\r\n" for line in self.says)

    @property
    def login(self) -> bytes:
        """As much of it as the gateway has to know."""
        return self.stream[: self.stream.index(b"open-sesame\r\n") + 13]

    def __str__(self) -> str:
        return self.name


WITHOUT_USERS = [
    Form("type 1", [b"USER joe@192.0.2.1", AT_SERVER[1]], [331, 230]),
    Form("type 8", [b"USER joe@192.0.2.1:21", AT_SERVER[1]], [331, 230]),
    Form("type 9", [b"USER joe@192.0.2.1 21", AT_SERVER[1]], [331, 230]),
    Form("site", [b"SITE 192.0.2.1", *AT_SERVER], [220, 331, 230]),
    Form("open", [b"open 192.0.2.1:21", *AT_SERVER], [220, 331, 230]),
    Form(
        "a user with an at-sign",
        [b"USER joe@anna@192.0.2.1", AT_SERVER[1]],
        [331, 230],
        [b"USER joe@anna", AT_SERVER[1]],
    ),
    Form(
        "a user with an at-sign, named there",
        [b"OPEN 192.0.2.1", b"USER joe@192.0.2.1", AT_SERVER[1]],
        [220, 331, 230],
        [b"USER joe@192.0.2.1", AT_SERVER[1]],
    ),
]
AFTER_LOGIN = [
    attrs.evolve(form, name=f"{form.name} after a login", says=[*AT_GATEWAY, *form.says],
                 hears=[331, 230, *form.hears])
    for form in WITHOUT_USERS
]  # fmt: skip
NAMED_WITH_SERVER = [
    Form("type 5", [b"USER joe@anna@192.0.2.1", b"PASS for-the-server@open-sesame"], [331, 230]),
    Form(
        "type 5 with more at-signs",
        [b"USER joe@corp@anna@192.0.2.1:21", b"PASS for@the@server@open-sesame"],
        [331, 230],
        [b"USER joe@corp", b"PASS for@the@server"],
    ),
    Form(
        "type 5 without a password for the server",
        [b"USER joe@anna@192.0.2.1", b"PASS @open-sesame"],
        [331, 230],
        [b"USER joe", b"PASS "],
    ),
    Form("type 6", [b"USER anna@192.0.2.1", AT_GATEWAY[1], *AT_SERVER], [331, 230, 331, 230]),
    Form(
        "type 6 with an at-sign",
        [b"USER anna@192.0.2.1", AT_GATEWAY[1], b"USER joe@192.0.2.1", AT_SERVER[1]],
        [331, 230, 331, 230],
        [b"USER joe@192.0.2.1", AT_SERVER[1]],
    ),
    Form(
        "type 7",
        [b"USER joe@192.0.2.1 anna", AT_SERVER[1], b"ACCT open-sesame"],
        [331, 332, 230],
    ),
]
WITH_USERS = AFTER_LOGIN + NAMED_WITH_SERVER
EVERY_FORM = [*((False, form) for form in WITHOUT_USERS), *((True, form) for form in WITH_USERS)]


def gateway(gateway_users: Path | None, **settings: object) -> Script:
    users = None if gateway_users is None else str(gateway_users)
    script = Script(gateway=True, users=users, **settings)  # type: ignore[arg-type]
    assert script.heard() == (WELCOME if gateway_users is None else WELCOME_TO_USERS)
    return script


def serve(script: Script) -> list[bytes]:
    """Be a server that greets and answers; return what it has got."""
    script.server(b"220 Ready\r\n")
    heard: list[bytes] = []
    while lines := script.got().split(b"\r\n")[:-1]:
        heard += lines
        for line in lines:
            script.server(ANSWERS[line.split(b" ")[0]])
    return heard


def codes(heard: bytes) -> list[int]:
    return [int(line[:3]) for line in heard.split(b"\r\n") if line]


@pytest.mark.parametrize(("has_users", "form"), EVERY_FORM, ids=str)
def test_every_form_leads_to_the_server_however_it_is_cut(gateway_users, has_users, form):
    def say(pieces: Sequence[bytes]) -> bytes:
        with gateway(gateway_users if has_users else None) as script:
            script.client(*pieces)
            assert script.connects == [SERVER]
            assert serve(script) == form.server_hears
            assert script.play.session.authenticated_user == ("anna" if has_users else None)
            heard = script.heard()
            assert script.is_in_step
            return heard

    assert codes(assert_all_alike(say, every_split(form.stream))) == form.hears


@pytest.mark.parametrize(("has_users", "form"), EVERY_FORM, ids=str)
def test_every_form_line_by_line_and_no_secret_in_the_log(gateway_users, log, has_users, form):
    with gateway(gateway_users if has_users else None) as script:
        server_heard, heard, has_greeted = [], b"", False
        for line in form.says:
            script.client(line + b"\r\n")
            if script.has_server and not has_greeted:
                server_heard, has_greeted = serve(script), True
            for sent in script.got().split(b"\r\n")[:-1]:
                server_heard.append(sent)
                script.server(ANSWERS[sent.split(b" ")[0]])
            heard += script.heard()
        assert codes(heard) == form.hears
        assert server_heard == form.server_hears
        logged = str(log) + str(script.play.log)
    assert any(line["event"] == "command" for line in log)
    for secret in (*GATEWAY_SECRETS.values(), "for-the-server", "for@the@server"):
        assert secret not in logged


@pytest.mark.parametrize("form", WITH_USERS, ids=str)
def test_nothing_is_connected_to_before_a_right_login(gateway_users, form):
    """Each wrong one is counted, and the last one is the end."""
    wrong = form.login.replace(b"open-sesame", b"12345")
    with gateway(gateway_users) as script:
        for number in range(MAX_LOGINS):
            script.client(wrong)
            assert codes(script.heard())[-1] == (530 if number < MAX_LOGINS - 1 else 421)
        assert script.has_hung_up
        assert not script.connects
        assert script.play.session.authenticated_user is None
        failed = [line for line in script.play.log if line["event"] == "login failed"]
        assert [line["user"] for line in failed] == ["anna"] * MAX_LOGINS


@pytest.mark.parametrize("form", WITH_USERS, ids=str)
@pytest.mark.parametrize(
    ("error", "reply"),
    [
        (PolicyRulesDeniedError("no"), b"530 This server is not allowed\r\n"),
        (NoServerReplyError("refused"), b"434 The server cannot be reached\r\n"),
    ],
)
def test_a_server_that_cannot_be_had(gateway_users, form, error, reply):
    """Said again, a USER that has named both would mean another user, and tell the server all."""
    with gateway(gateway_users) as script:
        script.refuse("dial", error)
        script.client(form.stream)
        assert reply in script.heard()
        assert script.connects[0] == SERVER
        assert script.has_hung_up == (form in NAMED_WITH_SERVER)
        tried = len(script.connects)
        script.refuse("dial", None)
        script.client(form.stream)
        assert (len(script.connects) == tried) == (form in NAMED_WITH_SERVER)


@pytest.mark.parametrize(
    ("says", "heard"),
    [
        ([b"OPEN 192.0.2.1"], "530 Log in to the gateway first"),
        ([b"SITE 192.0.2.1"], "530 Log in to the gateway first"),
        ([b"PASS open-sesame"], "530 Log in to the gateway first"),
        ([b"ACCT open-sesame"], "530 Log in to the gateway first"),
        ([b"USER joe@@192.0.2.1"], "530 Log in to the gateway first"),
        ([b"USER joe@192.0.2.1 21"], "530 Log in to the gateway first"),
        ([b"USER joe@anna@192.0.2.1:x", b"PASS x@open-sesame"], "530 Log in to the gateway first"),
        ([b"USER joe@anna@192.0.2.1", b"PASS open-sesame"], "530 Give both passwords"),
        ([b"USER joe@anna@192.0.2.1", b"PASS"], "530 Give both passwords"),
        ([b"USER joe@anna@192.0.2.1", b"ACCT open-sesame"], "530 Log in to the gateway first"),
        ([b"USER joe@anna@192.0.2.1", b"PASS x", b"PASS x@open-sesame"],
         "530 Log in to the gateway first"),
        ([b"USER joe@192.0.2.1 anna", b"ACCT open-sesame"], "530 Log in to the gateway first"),
        ([b"USER joe@192.0.2.1 anna", b"PASS open-sesame"], "332 Password of the gateway"),
        ([b"USER joe@192.0.2.1 anna", b"PASS x", b"ACCT"], "501 ACCT needs an argument"),
        ([b"USER joe@192.0.2.1 anna", b"PASS x", b"USER anna", b"ACCT open-sesame"],
         "530 Log in to the gateway first"),
        ([b"USER joe@192.0.2.1 anna", b"PASS x", b"USER @", b"ACCT open-sesame"],
         "530 Log in to the gateway first"),
        ([b"USER anna", b"USER bert", b"PASS open-sesame"], "530 Login incorrect"),
        ([b"USER anna", b"USER ", b"PASS open-sesame"], "530 Log in to the gateway first"),
        ([b"USER anna", b"PASS open-sesame", b"USER joe@192.0.2.1 anna"],
         "530 No user of the gateway is expected"),
        ([b"USER anna", b"PASS open-sesame", b"USER anna"], "530 Log in first"),
        ([b"USER anna", b"PASS open-sesame", b"PASS open-sesame"], "530 Log in first"),
        ([b"USER anna", b"PASS open-sesame", b"OPEN joe@192.0.2.1"], "501 Name a server"),
    ],
)  # fmt: skip
def test_what_leads_nowhere_with_users(gateway_users, says, heard):
    with gateway(gateway_users) as script:
        for line in says:
            script.heard()
            script.client(line + b"\r\n")
        assert script.heard().startswith(heard.encode())
        assert not script.connects


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (b"USER anna", "530 Log in first, as user@host"),
        (b"PASS open-sesame", "530 Log in first, as user@host"),
        (b"ACCT open-sesame", "530 Log in first, as user@host"),
        (b"USER joe@192.0.2.1 anna", "530 No user of the gateway is expected"),
        (b"OPEN", "501 Name a server"),
        (b"OPEN  ", "501 Name a server"),
        (b"OPEN 192.0.2.1:x", "501 Name a server"),
        (b"SITE", "501 SITE needs an argument"),
        (b"SITE CHMOD 644 f", "501 Name a server"),
    ],
)
def test_what_leads_nowhere_without_users(said, heard):
    with gateway(None) as script:
        script.client(said + b"\r\n")
        assert script.heard().startswith(heard.encode())
        assert not script.connects


@pytest.mark.parametrize(
    ("settings", "said", "heard"),
    [
        ({"read_only": True}, b"SITE 192.0.2.1", b""),
        ({"read_only": True}, b"OPEN 192.0.2.1", b""),
        ({"deny": ["SITE"]}, b"SITE 192.0.2.1", b"502 SITE is not allowed here\r\n"),
        ({"deny": ["OPEN"]}, b"OPEN 192.0.2.1", b"502 OPEN is not allowed here\r\n"),
        ({"argument_limits": {"OPEN": 8}}, b"OPEN 192.0.2.1",
         b"501 The argument of OPEN is too long\r\n"),
        ({"allow": ["USER"]}, b"OPEN 192.0.2.1", b"502 OPEN is not allowed here\r\n"),
    ],
)  # fmt: skip
def test_settings_hold_for_names_of_servers_but_what_they_write(settings, said, heard):
    with gateway(None, **settings) as script:
        script.client(said + b"\r\n")
        assert script.heard() == heard
        assert bool(script.connects) == (not heard)
        if script.connects:
            script.server(b"220 Ready\r\n")
            assert script.heard() == b"220 Connected to the server, now log in\r\n"
            script.client(b"SITE CHMOD 644 f\r\nOPEN 192.0.2.9\r\n")
            assert codes(script.heard()) == [550, 500]
            assert script.got() == b""


def test_a_name_is_looked_up_for_open_too():
    with gateway(None, hosts={"ftp.example": ["192.0.2.1"]}) as script:
        script.client(b"OPEN ftp.example\r\n")
        assert script.connects == [HostName("ftp.example", 21)]
        script.server(b"220 Ready\r\n")
        assert codes(script.heard()) == [220]


# What the server says.

BOTH_AT_ONCE = [form for form in NAMED_WITH_SERVER if form.name in {"type 5", "type 7"}]


@pytest.mark.parametrize("form", BOTH_AT_ONCE, ids=str)
@pytest.mark.parametrize(
    ("to_user", "to_pass", "heard", "is_told"),
    [
        (b"331 x\r\n", b"230-a\r\n230 b\r\n", b"230-a\r\n230 b\r\n", True),
        (b"331-x\r\n331 y\r\n", b"230 x\r\n", b"230 x\r\n", True),
        (b"331 x\r\n", b"530 x\r\n", b"530 x\r\n", True),
        (b"331 x\r\n", b"332 x\r\n", b"332 x\r\n", True),
        (b"331 x\r\n", b"421 x\r\n", b"421 x\r\n", True),
        (b"230 x\r\n", b"", b"230 x\r\n", False),
        (b"230-x\r\n230 y\r\n", b"", b"230-x\r\n230 y\r\n", False),
        (b"332 x\r\n", b"", b"332 x\r\n", False),
        (b"530 x\r\n", b"", b"530 x\r\n", False),
        (b"421 x\r\n", b"", b"421 x\r\n", False),
    ],
)
def test_the_servers_answer_to_the_login(gateway_users, form, to_user, to_pass, heard, is_told):
    """The client gets one reply to what it has said at once, and the next command waits for it."""
    with gateway(gateway_users) as script:
        script.client(form.stream + b"NOOP\r\n").server(b"220 Ready\r\n")
        script.heard()
        assert script.got() == b"USER joe\r\n"
        script.server(to_user)
        told = b"PASS for-the-server\r\nNOOP\r\n" if is_told else b"NOOP\r\n"
        assert script.got() == told
        script.server(to_pass)
        assert script.heard() == heard
        script.server(b"200 Ok\r\n")
        assert script.heard() == b"200 Ok\r\n"


@pytest.mark.parametrize("form", NAMED_WITH_SERVER, ids=str)
@pytest.mark.parametrize("refusal", [b"421 Too many\r\n", b"530-Go\r\n530 away\r\n"])
def test_a_server_that_turns_the_client_away_gets_nothing(gateway_users, form, refusal):
    with gateway(gateway_users) as script:
        script.client(form.login).server(refusal)
        assert script.heard().endswith(refusal)
        assert script.got() == b""


def test_an_account_that_the_server_asks_for(gateway_users):
    """ncftp says its password at the gateway then: a server need only ask for it."""
    with gateway(gateway_users) as script:
        script.client(b"USER joe@anna@192.0.2.1\r\nPASS x@open-sesame\r\n")
        script.server(b"220 Ready\r\n").server(b"331 x\r\n").server(b"332 Account?\r\n")
        assert codes(script.heard()) == [331, 332]
        script.got()
        script.client(b"ACCT open-sesame\r\n")
        assert script.heard() == b"530 That is the password of the gateway\r\n"
        assert script.got() == b""
        assert script.ask(b"ACCT accounting", b"230 Ok\r\n") == b"230 Ok\r\n"
        assert script.got() == b"ACCT accounting\r\n"


@pytest.mark.parametrize(
    ("form", "said", "sent", "heard"),
    [
        ("type 5", b"USER ann", b"USER ann\r\n", b""),
        ("type 5", b"USER ann@192.0.2.1", b"", b"530 This connection has a server"),
        ("type 5", b"USER joe@anna@192.0.2.1", b"", b"530 This connection has a server"),
        ("type 7", b"USER joe@192.0.2.1 anna", b"", b"530 No user of the gateway is expected"),
        ("type 9 after a login", b"USER ann@192.0.2.1 21", b"USER ann\r\n", b""),
        ("type 9 after a login", b"USER ann@192.0.2.1 22", b"", b"530 This connection has a"),
        ("open after a login", b"USER ann@192.0.2.9", b"USER ann@192.0.2.9\r\n", b""),
        ("type 6", b"USER ann@192.0.2.9", b"USER ann@192.0.2.9\r\n", b""),
    ],
)
def test_a_second_user(gateway_users, form, said, sent, heard):
    (found,) = [each for each in WITH_USERS if each.name == form]
    with gateway(gateway_users) as script:
        script.client(found.stream)
        serve(script)
        script.heard()
        script.client(said + b"\r\n")
        assert script.got() == sent
        assert script.heard()[: len(heard) or None] == heard
        assert script.connects == [SERVER]


@pytest.mark.parametrize("form", ["open", "type 6"])
def test_tls_at_the_server_once_it_is_named(gateway_users, form):
    """lftp asks for it there, before it says who it is."""
    has_users = form == "type 6"
    says = [b"USER anna@192.0.2.1", b"PASS open-sesame"] if has_users else [b"OPEN 192.0.2.1"]
    with gateway(gateway_users if has_users else None, tls="opaque") as script:
        script.client(b"AUTH TLS\r\n")
        assert codes(script.heard()) == [530]
        script.client(b"".join(line + b"\r\n" for line in says)).server(b"220 Ready\r\n")
        script.heard()
        script.client(b"AUTH TLS\r\n").server(b"234 Go\r\n")
        assert script.heard() == b"234 Go\r\n"
        script.client(b"\x16\x03\x01")
        assert script.got() == b"AUTH TLS\r\n\x16\x03\x01"


@pytest.mark.parametrize("form", BOTH_AT_ONCE, ids=str)
def test_a_client_that_waits_for_nothing(gateway_users, form):
    with gateway(gateway_users) as script:
        script.client(form.stream + b"QUIT\r\n").client_ends()
        assert serve(script) == [*AT_SERVER, b"QUIT"]
        assert codes(script.heard()) == [*form.hears, 221]
