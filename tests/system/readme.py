"""What README.md and docs/configuration.md tell their readers to do, for the tests that do it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/configuration.md")
TEXT = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)


def block(language: str, phrase: str) -> str:
    """The one fenced block in a language that holds a phrase."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    (found,) = [str(each) for each in blocks if phrase in each]
    return found


def commands(phrase: str) -> list[str]:
    """The commands for root in the console block that holds a phrase."""
    return re.findall(r"^# (.+)$", block("console", phrase), re.MULTILINE)


def settings_files(client: str) -> dict[str, str]:
    """What the table of gateway clients puts into which file below the home directory, by path."""
    (setting,) = re.findall(rf"^\| {client} \| (.+ in `~/.+) \|$", TEXT, re.MULTILINE)
    settings, _, rest = setting.partition(" in `~/")
    path = rest.partition("`")[0]
    lines = re.findall(r"`([^`]+)`", settings)
    return {path: "".join(f"{line}\n" for line in lines)}


def gateway_forms(client: str, *, users: bool) -> list[str]:
    """What the table of forms says that a client can be set to, with `users` or without."""
    title, *rows = re.findall(
        r"^(\| said to the gateway .*|\| `(?:USER|OPEN) .*) \|$", TEXT, re.MULTILINE
    )
    column = next(
        n for n, cell in enumerate(title.split("|")) if cell.split(",")[0].strip() == client
    )
    cells = [row.split("|") for row in rows]
    found = [row[column] for row in cells if row[2].strip() == ("yes" if users else "no")]
    return [word.strip(" `") for cell in found for word in cell.split(",") if word.strip()]


def given(client: str) -> list[str]:
    """What the tables of gateway clients give a client to say, in its order."""
    (setting,) = re.findall(rf"^\| {client} \| (.+) \|$", TEXT, re.MULTILINE)
    return re.findall(r"`([^`]+)`", setting)


def replaced(text: str, words: Mapping[str, str]) -> str:
    """The text with the words of the README's example replaced; each of them must be there."""
    for old, new in words.items():
        assert old in text, f"README.md no longer says {old!r}"
        text = text.replace(old, new)
    return text
