"""The ledger's file: lines come in order, and no disk can stop anybody."""

import os
import threading
import time

import orjson
import pytest

from fwproxy.ledger import file as ledger_file
from fwproxy.ledger.file import LedgerFile

PATIENCE = 10.0


def until(predicate):
    give_up = time.monotonic() + PATIENCE
    while not predicate():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def lines(path):
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def lost():
    return []


@pytest.fixture
def opened(tmp_path, lost):
    """A file in a directory of its own; it is closed afterwards."""
    made = LedgerFile(str(tmp_path / "ledger"), 100, lambda count, why: lost.append((count, why)))
    yield made
    made.close()


def test_lines_are_written_in_order_and_the_last_ones_at_the_close(tmp_path, opened, lost):
    for number in range(50):
        opened.write("opened", {"id": number})
    opened.close()
    found = lines(tmp_path / "ledger")
    assert [line["id"] for line in found] == list(range(50))
    assert {line["event"] for line in found} == {"opened"}
    assert {line["run"] for line in found} == {opened.run}
    assert all(line["time"].endswith("Z") for line in found)
    assert lost == []


def test_what_is_in_the_file_stays(tmp_path):
    path = tmp_path / "ledger"
    path.write_text('{"id": 0}\n')
    made = LedgerFile(str(path), 10, lambda *_: None)
    made.write("opened", {"id": 1})
    made.close()
    assert [line["id"] for line in lines(path)] == [0, 1]
    assert path.stat().st_mode & 0o007 == 0o004  # as it was
    (tmp_path / "new").unlink(missing_ok=True)
    LedgerFile(str(tmp_path / "new"), 10, lambda *_: None).close()
    assert (tmp_path / "new").stat().st_mode & 0o007 == 0


def test_a_moved_file_is_left_on_demand(tmp_path, opened):
    path, old = tmp_path / "ledger", tmp_path / "ledger.1"
    opened.write("opened", {"id": 1})
    until(lambda: path.stat().st_size)
    path.rename(old)
    opened.write("opened", {"id": 2})
    until(lambda: len(lines(old)) == 2)
    opened.reopen()
    until(path.exists)
    opened.write("opened", {"id": 3})
    opened.close()
    assert [line["id"] for line in lines(old)] == [1, 2]
    assert [line["id"] for line in lines(path)] == [3]


def test_a_file_that_was_truncated_goes_on_from_its_beginning(tmp_path, opened):
    path = tmp_path / "ledger"
    opened.write("opened", {"id": 1})
    until(lambda: path.stat().st_size)
    os.truncate(path, 0)
    opened.write("opened", {"id": 2})
    opened.close()
    assert [line["id"] for line in lines(path)] == [2]


def test_a_file_that_cannot_be_reopened_is_said_and_the_old_one_stays(tmp_path, opened, lost):
    path = tmp_path / "ledger"
    path.rename(tmp_path / "ledger.1")
    path.mkdir()
    opened.reopen()
    until(lambda: lost)
    assert lost[0][0] == 0
    assert f"ledger file {path}: Is a directory" in lost[0][1]
    opened.write("opened", {"id": 1})
    opened.close()
    assert [line["id"] for line in lines(tmp_path / "ledger.1")] == [1]


@pytest.mark.parametrize("path", ["nowhere/ledger", "."])
def test_an_error_at_the_start_names_the_file(tmp_path, path):
    with pytest.raises(OSError, match=f"ledger file {tmp_path}"):
        LedgerFile(str(tmp_path / path), 10, lambda *_: None)


def test_a_pipe_without_a_reader_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device or address"):
        LedgerFile(str(tmp_path / "pipe"), 10, lambda *_: None)


def test_a_full_disk_loses_lines_and_says_how_many(lost):
    made = LedgerFile("/dev/full", 100, lambda count, why: lost.append((count, why)))
    for number in range(5):
        made.write("opened", {"id": number})
    made.close()
    assert sum(count for count, _ in lost) == 5
    assert lost[0][1] == "/dev/full: No space left on device"


def test_a_slow_disk_loses_what_the_queue_has_no_place_for(tmp_path, lost, monkeypatch):
    reached, proceed, write = threading.Event(), threading.Event(), os.write

    def slowly(fd, data):
        reached.set()
        assert proceed.wait(PATIENCE)
        return write(fd, data)

    monkeypatch.setattr(ledger_file.os, "write", slowly)
    made = LedgerFile(str(tmp_path / "ledger"), 3, lambda count, why: lost.append((count, why)))
    made.write("opened", {"id": 0})
    assert reached.wait(PATIENCE)
    began = time.monotonic()
    for number in range(1, 11):
        made.write("opened", {"id": number})
    assert time.monotonic() - began < 1  # nobody waits
    proceed.set()
    until(lambda: len(lines(tmp_path / "ledger")) >= 5)  # with one that says what was lost
    assert lost == [(7, "the queue is full (ledger.queue)")]
    made.write("opened", {"id": 11})
    made.close()
    found = lines(tmp_path / "ledger")
    assert [line["id"] for line in found if line["event"] == "opened"] == [0, 1, 2, 3, 11]
    assert [line["lines"] for line in found if line["event"] == "lost"] == [7]


def test_a_line_that_was_cut_off_does_not_spoil_the_next(tmp_path, lost, monkeypatch):
    write, pieces = os.write, []

    def cut(fd, data):
        pieces.append(len(data))
        if len(pieces) == 1:
            return write(fd, data[: len(data) - 20])  # all of the first line, most of the second
        if len(pieces) == 2:
            raise OSError(28, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(ledger_file.os, "write", cut)
    made = LedgerFile(str(tmp_path / "ledger"), 100, lambda count, why: lost.append((count, why)))
    made.write("opened", {"id": 1, "word": "x" * 40})
    made.write("opened", {"id": 2, "word": "x" * 40})
    until(lambda: lost)
    assert lost[0][0] == 1
    made.write("opened", {"id": 3})
    made.close()
    first, torn, *rest = (tmp_path / "ledger").read_bytes().splitlines()
    assert orjson.loads(first)["id"] == 1
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(torn)
    assert [orjson.loads(line)["event"] for line in rest] == ["lost", "opened"]


def test_a_hanging_disk_does_not_hang_the_stop(tmp_path, monkeypatch):
    proceed, write = threading.Event(), os.write

    def hang(fd, data):
        proceed.wait(PATIENCE)
        return write(fd, data)

    monkeypatch.setattr(ledger_file.os, "write", hang)
    monkeypatch.setattr(ledger_file, "_CLOSE_PATIENCE", 0.1)
    made = LedgerFile(str(tmp_path / "ledger"), 100, lambda *_: None)
    made.write("opened", {"id": 1})
    began = time.monotonic()
    made.close()
    assert time.monotonic() - began < 2
    proceed.set()


def test_a_peers_odd_words_are_written_too(tmp_path, opened):
    opened.write("opened", {"trigger": "a\ud800b\n\x00"})
    opened.close()
    (line,) = lines(tmp_path / "ledger")
    assert line["trigger"] == "a?b\n\x00"
