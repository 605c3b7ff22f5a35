"""Whatever a client says to a gateway with users: before a right login nothing is opened for it."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from scripted import GATEWAY_SECRETS, Script

from fwproxy.testing.strategies import cut
from fwproxy_filters.ftp.gateway import MAX_LOGINS

NAMES = ("anna", "bert", "joe", "joe x", "", " ")
HOSTS = ("192.0.2.1", "192.0.2.1:21", "ftp.example", "no.such.host", "anna", "")

names, hosts = st.sampled_from(NAMES), st.sampled_from(HOSTS)
passwords = st.sampled_from([*GATEWAY_SECRETS.values(), "guess", "for-the-server", ""])
separators = st.sampled_from(["@", "@", "@", " ", "@@", ":"])
user_arguments = st.one_of(
    names,
    st.tuples(names, hosts).map("@".join),
    st.tuples(names, names, hosts).map("@".join),
    st.tuples(names, hosts, names | st.just("21")).map(lambda t: f"{t[0]}@{t[1]} {t[2]}"),
    st.lists(names | hosts | separators, max_size=8).map("".join),
)
password_arguments = passwords | st.tuples(passwords, passwords).map("@".join)
data_commands = st.sampled_from(
    ["PASV", "EPSV", "PORT 10,0,0,8,20,1", "EPRT |1|10.0.0.8|2000|", "RETR f", "STOR f", "LIST"]
)
others = st.sampled_from(
    ["NOOP", "FEAT", "SYST", "REIN", "ABOR", "AUTH TLS", "SITE HELP", "CWD x", "BANANA", "", "USER"]
)


def said(verb: str) -> st.SearchStrategy[str]:
    """A command with any argument that may follow it."""
    arguments = {"USER": user_arguments, "OPEN": hosts, "SITE": hosts}
    return arguments.get(verb, password_arguments).map(lambda argument: f"{verb} {argument}")


lines = st.one_of(
    *[said(verb) for verb in ("USER", "USER", "PASS", "PASS", "ACCT", "OPEN", "SITE")],
    data_commands,
    others,
)
talks = st.lists(lines, min_size=1, max_size=12)


def proves(before: list[str], user: str) -> bool:
    """Whether the last USER names this user, and his password has been said since."""
    has_said = False
    for line in reversed(before):
        if line.startswith("USER "):
            return has_said and user in line
        has_said |= line.startswith(("PASS ", "ACCT ")) and line.endswith(GATEWAY_SECRETS[user])
    return False


def check(script: Script, before: list[str]) -> None:
    """Make sure that nothing is open or known that no right login has led to."""
    user = script.play.session.authenticated_user
    if user is None:
        assert not script.connects
        assert not script.has_server
    else:
        assert user in GATEWAY_SECRETS
        assert any(proves(before[:end], user) for end in range(1, len(before) + 1))
    if not script.has_server:
        assert not script.calls
        assert not script.play.permissions
        assert not script.play.secondaries


@settings(max_examples=300)
@given(talks)
@example(["USER anna", "PASS open-sesame", "OPEN 192.0.2.1", "PASV"])
@example(["USER joe@anna@192.0.2.1", "PASS x@open-sesame", "PASV"])
@example(["USER anna@192.0.2.1", "PASS open-sesame", "PASV"])
@example(["USER joe@192.0.2.1 anna", "PASS x", "ACCT open-sesame", "PASV"])
def test_nothing_is_opened_before_a_right_login(gateway_users, talk):
    hosts = {"ftp.example": ["192.0.2.1"]}
    with Script(gateway=True, users=str(gateway_users), hosts=hosts) as script:
        for number, line in enumerate(talk, 1):
            if script.has_hung_up:
                break
            script.client(line.encode() + b"\r\n")
            check(script, talk[:number])
        failed = [line for line in script.play.log if line["event"] == "login failed"]
        assert len(failed) <= MAX_LOGINS
        for secret in GATEWAY_SECRETS.values():
            assert secret not in str(script.play.log)


@settings(max_examples=150)
@given(cut(talks.map(lambda talk: "".join(f"{line}\r\n" for line in talk).encode())), talks)
def test_every_split_of_a_login_leads_to_the_same(gateway_users, pieces, rest):
    last_words = "".join(f"{line}\r\n" for line in rest).encode()

    def outcome(pieces: list[bytes]) -> tuple[object, ...]:
        hosts = {"ftp.example": ["192.0.2.1"]}
        with Script(gateway=True, users=str(gateway_users), hosts=hosts) as script:
            script.client(*filter(None, pieces))
            if script.has_server:
                for reply in (b"220 x\r\n", b"331 x\r\n", b"230 x\r\n"):
                    script.server(reply)
            if not script.has_hung_up:
                script.client(last_words)
            user = script.play.session.authenticated_user
            return script.heard(), script.got(), script.connects, user, script.has_hung_up

    assert outcome(pieces) == outcome([b"".join(pieces)])


@settings(max_examples=150)
@given(talks)
def test_without_users_nobody_is_anybody(talk):
    with Script(gateway=True, hosts={"ftp.example": ["192.0.2.1"]}) as script:
        for line in talk:
            if script.has_hung_up:
                break
            script.client(line.encode() + b"\r\n")
            assert script.play.session.authenticated_user is None
            if not script.has_server:
                assert not script.calls
        assert not [line for line in script.play.log if line["event"] == "login failed"]
