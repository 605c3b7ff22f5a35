"""Every block of `docs/writing-filters.md` is run, in its order, in a directory of its own."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from fwproxy import registry

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GUIDE = (DOCS / "writing-filters.md").read_text(encoding="utf-8")
BLOCK = re.compile(
    r"^(?:<!-- file (?P<file>[^\n]*) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
PATIENCE = 100


@attrs.frozen
class Block:
    """A block of the page: a file, a part of one, commands, or what a prompt shows."""

    file: str | None
    kind: str
    text: str


BLOCKS = [Block(*found.group("file", "kind", "text")) for found in BLOCK.finditer(GUIDE)]


def write(directory: Path, block: Block) -> None:
    """Write a file anew, or more of one."""
    assert block.file is not None
    name, continued, _ = block.file.partition(", continued")
    with (directory / name).open("a" if continued else "w", encoding="utf-8") as file:
        file.write(("\n\n" if continued else "") + block.text)


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each command with the lines that it shows."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, *shown = part.splitlines()
        yield command, shown


def run(directory: Path, command: str) -> str:
    """Run a command of this environment; what it has installed into `site` is there."""
    name, *arguments = shlex.split(command)
    program = {"python": [sys.executable], "fwproxy": [sys.executable, "-m", "fwproxy"]}[name]
    done = subprocess.run(
        [*program, *arguments],
        cwd=directory,
        env={
            **{key: os.environ[key] for key in os.environ if not key.startswith("PYTEST")},
            "PYTHONPATH": os.pathsep.join([str(directory), str(directory / "site")]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def test_the_guide_leads_to_a_tested_and_packaged_filter(tmp_path: Path) -> None:
    for block in BLOCKS:
        if block.file is not None:
            write(tmp_path, block)
        elif block.kind == "console":
            for command, shown in commands(block.text):
                output = run(tmp_path, command)
                for line in shown:
                    assert line.strip() in output, f"{command}\n{output}"


def test_the_types_of_the_guides_filter_are_right(tmp_path: Path) -> None:
    for block in BLOCKS:
        if block.file == "parcel_filter.py":
            write(tmp_path, block)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "parcel_filter.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_what_a_prompt_shows_is_what_comes() -> None:
    session = "\n".join(b.text for b in BLOCKS if b.file is None and b.kind == "python")
    assert session.count(">>>") > 10
    test = doctest.DocTestParser().get_doctest(session, {}, "writing-filters.md", None, None)
    told: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=told.append)
    assert not results.failed, "".join(told)


def test_every_block_is_checked() -> None:
    for block in BLOCKS:
        assert block.file or block.kind == "console" or block.text.startswith(">>> "), block.text
    assert GUIDE.count("\n```") == 2 * len(BLOCKS)


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in anchors, target


def test_every_name_of_the_library_exists() -> None:
    for dotted in re.findall(r"`(fwproxy\.[\w.]+)`", GUIDE):
        module, _, name = dotted.rpartition(".")
        found = __import__(module, fromlist=[name])
        assert dotted == registry.GROUP or hasattr(found, name), dotted
