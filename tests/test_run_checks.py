"""The checks of `conftest.py` themselves: leaks are found, and skips can fail a run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
SETTINGS = """\
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
markers = system
"""

LEAKS = """\
import asyncio, os, socket, threading, time

kept = []

def test_socket():
    kept.append(socket.socket())

def test_pipe():
    os.pipe()

def test_thread():
    threading.Thread(target=time.sleep, args=(1,), name="sleeper").start()

async def test_task():
    kept.append(asyncio.create_task(asyncio.sleep(60)))

async def test_async_socket():
    kept.append(socket.socket())

async def test_nothing():
    with socket.socket():
        await asyncio.to_thread(len, "")
    task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
"""
SKIP = """\
import pytest

def test_runs():
    pass

def test_skipped():
    pytest.skip("a package is missing")

@pytest.mark.xfail(reason="known")
def test_expected_failure():
    assert False
"""


def run_pytest(directory: Path, source: str, *args: str, **environment: str) -> tuple[int, str]:
    text = CONFTEST.read_text(encoding="utf-8")
    assert "LEAK_PATIENCE = 2.0" in text
    (directory / "conftest.py").write_text(text.replace("PATIENCE = 2.0", "PATIENCE = 0.2"))
    (directory / "pytest.ini").write_text(SETTINGS)
    (directory / "test_example.py").write_text(source)
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *args],
        cwd=directory,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def test_what_a_test_leaves_behind_is_named(tmp_path: Path) -> None:
    code, output = run_pytest(tmp_path, LEAKS, "-rE")
    assert code == 1
    left = {}
    for name, loop, what in re.findall(
        r"ERROR at teardown of (\w+?)(?:\[(\w+)\])? _.*?AssertionError: (.*?)\n", output, re.DOTALL
    ):
        left[name, loop] = what
    assert re.match(r"left behind: file descriptor \d+: socket:", left["test_socket", ""])
    assert left["test_pipe", ""].count("pipe:") == 2
    assert left["test_thread", ""].startswith("left behind: thread sleeper")
    for loop in ("asyncio", "uvloop"):
        assert left["test_task", loop].startswith("tasks left behind: <coroutine object sleep")
        assert "socket:" in left["test_async_socket", loop]
    assert len(left) == 7
    assert "test_nothing" not in output


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
@pytest.mark.parametrize(
    ("environment", "code"), [({}, 0), ({"FWPROXY_NO_SKIP": "1"}, 1), ({"CI": "true"}, 1)]
)
def test_skips_fail_a_run_where_they_must_not_be(
    tmp_path: Path, workers: tuple[str, ...], environment: dict[str, str], code: int
) -> None:
    found, output = run_pytest(tmp_path, SKIP, *workers, **environment)
    assert found == code
    assert ("skips are not allowed" in output) == bool(code)
    assert ("test_example.py::test_skipped" in output) == bool(code)
    assert "test_expected_failure" not in output


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
@pytest.mark.parametrize(("forbidden", "code"), [("0", 0), ("1", 1)])
def test_a_module_that_skips_itself_counts(
    tmp_path: Path, workers: tuple[str, ...], forbidden: str, code: int
) -> None:
    (tmp_path / "test_other.py").write_text("def test_runs():\n    pass\n")
    source = 'import pytest\npytest.skip("all of it", allow_module_level=True)\n'
    found, output = run_pytest(tmp_path, source, *workers, FWPROXY_NO_SKIP=forbidden)
    assert found == code, output
