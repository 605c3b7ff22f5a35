"""Which reply belongs to which command, with what real servers are known to answer."""

from __future__ import annotations

import pytest

from fwproxy_filters.ftp.pending import GREETING, Pending, PendingQueue


def queue(*entries: str | bytes) -> tuple[PendingQueue, list[Pending]]:
    """Return a queue of commands, and of own replies given as bytes."""
    made = [
        Pending("", reply=entry) if isinstance(entry, bytes) else Pending(entry)
        for entry in entries
    ]
    pending = PendingQueue()
    for entry in made:
        pending.append(entry)
    return pending, made


def reply(pending: PendingQueue, code: int) -> str | None:
    """Let the server answer; return the verb whose reply it was."""
    found = pending.match(code)
    if found is None:
        return None
    if code < 200:
        found.is_under_way = True
    else:
        pending.finish(found, code)
    return found.verb


# Commands with what a server answers to them, and whose reply each was.
DIALOGUES = {
    "in order": (["USER", "PASS", "CWD"], [(331, "USER"), (230, "PASS"), (550, "CWD")]),
    "greeting": ([GREETING, "USER"], [(120, GREETING), (220, GREETING), (331, "USER")]),
    "account": (["PASS", "ACCT"], [(332, "PASS"), (230, "ACCT")]),
    "nobody asked": ([], [(421, None), (200, None)]),
    "transfer": (["REST", "RETR", "NOOP"], [(350, "REST"), (150, "RETR"), (226, "RETR"),
                                            (200, "NOOP")]),
    "restart marker": (["STOR"], [(150, "STOR"), (110, "STOR"), (226, "STOR")]),
    "a transfer may end with 250": (["LIST", "CWD"], [(125, "LIST"), (250, "LIST"),
                                                      (250, "CWD")]),
    "refused at once": (["RETR", "NOOP"], [(550, "RETR"), (200, "NOOP")]),
    "STAT during a transfer": (["RETR", "STAT"], [(150, "RETR"), (211, "STAT"), (226, "RETR")]),
    "NOOP during a transfer": (["STOR", "NOOP", "NOOP"], [(150, "STOR"), (200, "NOOP"),
                                                          (226, "STOR"), (200, "NOOP")]),
    "Pure-FTPd refuses NOOP during a transfer": (["RETR", "NOOP"], [(150, "RETR"), (500, "NOOP"),
                                                                    (226, "RETR")]),
    "RNFR during a transfer": (["RETR", "RNFR"], [(150, "RETR"), (350, "RNFR"), (226, "RETR")]),
    "QUIT during a transfer": (["RETR", "QUIT"], [(150, "RETR"), (221, "QUIT"), (226, "RETR")]),
    "a transfer fails while STAT waits": (["RETR", "STAT"], [(150, "RETR"), (451, "RETR"),
                                                             (211, "STAT")]),
    "a transfer that nothing else can mean": (["RETR"], [(150, "RETR"), (200, "RETR")]),
    "PASV is not answered with 200 beside a transfer": (["RETR", "PASV", "NOOP"],
                                                        [(150, "RETR"), (200, "NOOP")]),
    # vsftpd 3.0.3: 426 and 226 with async_abor_enable, 426 and 225 without
    "ABOR, two replies": (["RETR", "ABOR", "NOOP"], [(150, "RETR"), (426, "RETR"), (226, "ABOR"),
                                                     (200, "NOOP")]),
    "ABOR too late, two replies": (["RETR", "ABOR", "NOOP"], [(150, "RETR"), (226, "RETR"),
                                                              (225, "ABOR"), (200, "NOOP")]),
    "ABOR before its transfer's reply": (["RETR", "ABOR"], [(150, "RETR"), (225, "RETR"),
                                                            (426, "ABOR")]),
    # pyftpdlib 2.2 answers once while the data connection is not there
    "ABOR, one reply": (["RETR", "ABOR", "NOOP"], [(150, "RETR"), (225, "RETR"), (200, "NOOP")]),
    "ABOR, one reply, then a transfer": (["RETR", "ABOR", "LIST"],
                                         [(150, "RETR"), (225, "RETR"), (150, "LIST"),
                                          (226, "LIST")]),
    "ABOR, one reply, then a failure": (["RETR", "ABOR", "SIZE"],
                                        [(150, "RETR"), (225, "RETR"), (550, "SIZE")]),
    "ABOR, one reply, then PASV": (["RETR", "ABOR", "PASV"], [(150, "RETR"), (226, "RETR"),
                                                              (227, "PASV")]),
    "ABOR, one reply, then nobody's": (["RETR", "ABOR"], [(150, "RETR"), (225, "RETR"),
                                                          (200, None)]),
    "ABOR is unknown": (["RETR", "ABOR"], [(150, "RETR"), (226, "RETR"), (502, "ABOR")]),
    "ABOR alone": (["ABOR", "NOOP"], [(225, "ABOR"), (200, "NOOP")]),
    "ABOR of a transfer that never started": (["RETR", "ABOR", "NOOP"],
                                              [(550, "RETR"), (225, "ABOR"), (200, "NOOP")]),
    "one reply too many before PASV": (["PASV"], [(226, None), (227, "PASV")]),
    "one reply too many before PORT": (["PORT"], [(426, None), (200, "PORT")]),
    # the codes that only one command has
    "227 shows where the queue stands": (["NOOP", "CWD", "PASV", "NOOP"], [(227, "PASV"),
                                                                           (200, "NOOP")]),
    "227 nobody asked for": (["NOOP"], [(227, None), (200, "NOOP")]),
    "229 for PASV": (["PASV"], [(229, "PASV")]),
    "227 for EPSV": (["EPSV"], [(227, "EPSV")]),
    "229 among others": (["NOOP", "PASV"], [(229, None)]),
}  # fmt: skip


@pytest.mark.parametrize("name", DIALOGUES)
def test_whose_reply_it_is(name):
    commands, replies = DIALOGUES[name]
    pending, _ = queue(*commands)
    assert [(code, reply(pending, code)) for code, _ in replies] == replies


def test_the_answer_to_abor_is_not_swallowed_with_its_transfer():
    pending, (transfer, abort) = queue("RETR", "ABOR")
    transfer.is_answered = True
    assert pending.match(225) is abort


def test_what_the_server_says_late_is_its_transfers():
    pending, (transfer, _) = queue("RETR", "ABOR")
    transfer.is_answered = True
    assert pending.match(426) is transfer


def test_own_replies_wait_for_those_before_them():
    pending, _ = queue("NOOP", b"502 a\r\n", "CWD", b"502 b\r\n")
    assert pending.take_replies() == b""
    reply(pending, 200)
    assert pending.take_replies() == b"502 a\r\n"
    assert pending.take_replies() == b""
    reply(pending, 250)
    assert pending.take_replies() == b"502 b\r\n"
    assert len(pending) == 0


def test_own_replies_do_not_wait_for_what_is_swallowed():
    pending, (transfer, *_) = queue("RETR", b"502 a\r\n", "NOOP", b"502 b\r\n")
    transfer.is_answered = True
    assert pending.take_replies() == b"502 a\r\n"
    assert not pending.is_settled


def test_own_replies_wait_for_abor_until_another_command_comes():
    pending, _ = queue("RETR", "ABOR", b"502 a\r\n")
    reply(pending, 150)
    reply(pending, 226)
    assert pending.take_replies() == b""
    assert pending.is_settled
    assert pending.take_replies(past_silent=True) == b"502 a\r\n"


def test_own_replies_come_before_a_227_that_skips_commands():
    pending, _ = queue("NOOP", b"502 a\r\n", "PASV")
    found = pending.match(227)
    assert found is not None
    assert found.verb == "PASV"
    assert pending.take_replies() == b"502 a\r\n"
