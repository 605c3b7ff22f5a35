import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwproxy_filters.ftp import commands as commands_module
from fwproxy_filters.ftp import verbs as verbs_module
from fwproxy_filters.ftp.commands import MAX_VERB_LENGTH, Command, parse_command
from fwproxy_filters.ftp.errors import FtpSyntaxError
from fwproxy_filters.ftp.verbs import HARMLESS_SITE_COMMANDS, RULES, Argument, Kind

IANA_REGISTRY = """
    ABOR ACCT ADAT ALLO APPE AUTH CCC CDUP CONF CWD DELE ENC EPRT EPSV FEAT HELP HOST LANG LIST LPRT
    LPSV MDTM MIC MKD MLSD MLST MODE NLST NOOP OPTS PASS PASV PBSZ PORT PROT PWD QUIT REIN REST RETR
    RMD RNFR RNTO SITE SIZE SMNT STAT STOR STOU STRU SYST TYPE USER XCUP XMKD XPWD XRMD
"""

WRITERS = """
    ALLO APPE COMB DELE MFCT MFF MFMT MKD MLFL RMD RMDA RNFR RNTO SITE STOR STOU XMKD XRMD
"""


def test_the_table_has_every_registered_command():
    assert set(IANA_REGISTRY.split()) <= set(RULES)


def test_the_table_is_sound():
    for verb, rule in RULES.items():
        assert verb == rule.verb == verb.upper()
        assert verb.isalnum()
        assert len(verb) <= MAX_VERB_LENGTH
        assert rule.source
    assert sorted(verb for verb, rule in RULES.items() if rule.writes) == WRITERS.split()


def test_no_verb_stands_in_the_table_twice():
    assert len(verbs_module._ROWS) == len(RULES)


@pytest.mark.parametrize(
    ("kind", "verbs"),
    [
        (Kind.TRANSFER, "RETR STOR STOU APPE LIST NLST MLSD THMB MLFL"),
        (Kind.DATA_SETUP, "PORT PASV EPRT EPSV LPRT LPSV CPSV SPSV"),
        (Kind.SECURITY, "AUTH ADAT PBSZ PROT CCC MIC CONF ENC SSCN"),
        (Kind.ACCESS, "USER PASS ACCT REIN QUIT HOST"),
    ],
)
def test_kinds(kind, verbs):
    assert {verb for verb, rule in RULES.items() if rule.kind is kind} == set(verbs.split())


def test_what_cannot_be_proxied():
    untranslated = {verb for verb, rule in RULES.items() if not rule.proxied}
    assert untranslated == {"LPRT", "LPSV", "CPSV", "SPSV"}


@pytest.mark.parametrize(
    ("line", "verb", "argument", "wire"),
    [
        (b"NOOP", "NOOP", None, b"NOOP\r\n"),
        (b"noop", "NOOP", None, b"NOOP\r\n"),
        (b"NoOp", "NOOP", None, b"NOOP\r\n"),
        (b"USER anonymous", "USER", b"anonymous", b"USER anonymous\r\n"),
        (b"user anonymous", "USER", b"anonymous", b"USER anonymous\r\n"),
        (b"PASS ", "PASS", b"", b"PASS \r\n"),
        (b"RETR  a b ", "RETR", b" a b ", b"RETR  a b \r\n"),
        (b"RETR \xff\xff\xe9", "RETR", b"\xff\xff\xe9", b"RETR \xff\xff\xe9\r\n"),
        (b"xsha256 f", "XSHA256", b"f", b"XSHA256 f\r\n"),
        (b"XNEW1 f", "XNEW1", b"f", b"XNEW1 f\r\n"),
        (b"abcdefghijkl", "ABCDEFGHIJKL", None, b"ABCDEFGHIJKL\r\n"),
    ],
)
def test_commands_are_taken_apart(line, verb, argument, wire):
    command = parse_command(line)
    assert (command.verb, command.argument, command.wire, command.raw) == (
        verb,
        argument,
        wire,
        line,
    )
    assert command.rule is RULES.get(verb)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b" NOOP",
        b"\tNOOP",
        b"PORT\t1,2,3,4,5,6",
        b"PORT\x0b1,2,3,4,5,6",
        b"P@SW",
        b"PORT,1",
        b"PASV;",
        b"PASV\r",
        b"PASV\0",
        b"\xff\xf4ABOR",
        b"US\xc3\x89R x",
        "PASV\u0131".encode(),
        b"Host: ftp.example.com",
        b"Content-Length: 3",
        b"<html>",
        b"\x16\x03\x01",
        b"ABCDEFGHIJKLM",
        b"A" * 5000,
    ],
)
def test_what_is_not_a_verb_is_answered_with_500(line):
    with pytest.raises(FtpSyntaxError) as caught:
        parse_command(line)
    assert caught.value.reply_code == 500
    assert caught.value.reply == b"500 Syntax error, this is not a command\r\n"


@given(st.binary())
def test_a_line_is_a_command_or_an_error(line):
    try:
        command = parse_command(line)
    except FtpSyntaxError:
        return
    assert command.verb.isascii()
    assert command.verb.isalnum()
    assert len(command.verb) <= MAX_VERB_LENGTH
    if not set(b"\r\n") & set(line):
        again = parse_command(command.wire[:-2])
        assert again[:3] == command[:3]


@given(st.sampled_from(sorted(RULES)), st.data())
def test_verbs_are_known_in_any_mixture_of_cases(verb, data):
    spelled = "".join(data.draw(st.sampled_from([c, c.lower()])) for c in verb)
    command = parse_command(spelled.encode() + b" x")
    assert command.rule is RULES[verb]
    assert command.wire == verb.encode() + b" x\r\n"


def test_unknown_verbs_are_not_remembered():
    before = len(commands_module._RULES_BY_BYTES), len(RULES)
    tracemalloc.start()
    for number in range(20_000):
        parse_command(b"X%d a" % number)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 100_000
    assert (len(commands_module._RULES_BY_BYTES), len(RULES)) == before


@pytest.mark.parametrize(
    ("line", "writes"),
    [
        (b"RETR f", False),
        (b"STOR f", True),
        (b"stou", True),
        (b"OPTS UTF8 ON", False),
        (b"XNEW f", True),
        (b"SITE", True),
        (b"SITE CHMOD 644 f", True),
        (b"SITE UTIME 20200101000000 f", True),
        (b"SITE CPFR f", True),
        (b"SITE  help", False),
        (b"SITE HELP CHMOD", False),
        (b"SITE HELPER", True),
        (b"MDTM f", False),
        (b"MDTM 20200101000000", False),
        (b"MDTM 20200101000000 f", True),
        (b"MDTM  20200101000000  f", True),
        (b"MDTM 20200101000000.123 f", True),
        (b"MDTM 20200101000000+120 f", True),
        (b"MDTM my file", False),
        (b"MFMT 20200101000000 f", True),
        (b"PRET STOR f", False),
    ],
)
def test_what_writes(line, writes):
    assert parse_command(line).writes is writes


@pytest.mark.parametrize(
    ("line", "logged"),
    [
        (b"NOOP", "NOOP"),
        (b"USER joe", "USER joe"),
        (b"PASS s3cret", "PASS ****"),
        (b"pass", "PASS"),
        (b"ACCT s3cret", "ACCT ****"),
        (b"ADAT czNjcmV0", "ADAT ****"),
        (b"ENC czNjcmV0", "ENC ****"),
        (b"PAS s3cret", "PAS ****"),
        (b"SITE PSWD old new", "SITE PSWD ****"),
        (b"SITE HELP", "SITE HELP"),
        ("RETR \u540d\u524d.txt".encode(), "RETR \u540d\u524d.txt"),
        (b"RETR \xe9\xff", "RETR \\xe9\\xff"),
        (b"RETR a\x1b[2Jb\x07", "RETR a\\x1b[2Jb\\x07"),
        ("RETR \u202etxt".encode(), "RETR \\u202etxt"),
    ],
)
def test_the_log_sees_neither_secrets_nor_control_characters(line, logged):
    command = parse_command(line)
    assert command.loggable == logged
    assert repr(command) == f"<Command {logged}>"
    assert "s3cret" not in repr([command]) + str(command) + f"{command}"


@given(st.binary())
def test_the_log_gets_one_printable_line(argument):
    assert Command("RETR", argument, RULES["RETR"], b"").loggable.isprintable()


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"PASV", None),
        (b"PASV ", None),
        (b"PASV x", "501 PASV takes no argument"),
        (b"CDUP ..", "501 CDUP takes no argument"),
        (b"RETR", "501 RETR needs an argument"),
        (b"RETR ", "501 RETR needs an argument"),
        (b"RETR f", None),
        (b"LIST", None),
        (b"LIST -al", None),
        (b"PASS", None),
        (b"NOOP ~", None),
        (b"XNEW", None),
    ],
)
def test_arguments_are_there_when_they_must_be(line, fault):
    command = parse_command(line)
    if fault is None:
        command.check_argument()
    else:
        with pytest.raises(FtpSyntaxError) as caught:
            command.check_argument()
        assert str(caught.value) == fault


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1", b"POST /x HTTP/1.0", b"EHLO me", b"put /x"])
def test_other_protocols_are_recognised(line):
    assert parse_command(line).is_foreign


def test_no_ftp_command_is_taken_for_another_protocol():
    assert not any(Command(verb, None, rule, b"").is_foreign for verb, rule in RULES.items())


def test_the_harmless_site_commands_are_few_and_spelled_in_capitals():
    assert all(word == word.upper() for word in HARMLESS_SITE_COMMANDS)
    assert RULES["SITE"].argument is Argument.REQUIRED
