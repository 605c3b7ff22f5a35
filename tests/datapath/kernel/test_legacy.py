"""Tables of iptables' old kind, of which no notice is ever given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fwproxy.datapath.kernel.legacy import LegacyTables


def hindrance(directory: Path) -> str:
    tables = LegacyTables(str(directory))
    try:
        return tables.hindrance()
    finally:
        tables.close()


def test_without_that_kind_there_are_none(tmp_path: Path) -> None:
    assert hindrance(tmp_path) == ""


@pytest.mark.parametrize(("names", "found"), [("", ""), ("nat\n", ""), ("nat\nraw\n", "raw")])
def test_only_nat_is_harmless(tmp_path: Path, names: str, found: str) -> None:
    (tmp_path / "ip6_tables_names").write_text(names)
    expected = f"the table {found} of ip6tables may drop what is forwarded" if found else ""
    assert hindrance(tmp_path) == expected


def test_a_table_that_comes_later_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "ip_tables_names"
    path.write_text("nat\n")
    tables = LegacyTables(str(tmp_path))
    try:
        assert tables.hindrance() == ""
        path.write_text("nat\nfilter\n")
        assert "the table filter of iptables" in tables.hindrance()
    finally:
        tables.close()


FORGETTING = """
import os, sys
from fwproxy.datapath.kernel.legacy import LegacyTables
early = LegacyTables(sys.argv[1])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
print(early.hindrance())
print(LegacyTables(sys.argv[1]).hindrance())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_who_is_not_root_any_more_still_sees_them_and_others_do_not(tmp_path: Path) -> None:
    path = tmp_path / "ip_tables_names"
    path.write_text("mangle\n")
    path.chmod(0o440)
    command = [sys.executable, "-c", FORGETTING, str(tmp_path)]
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.splitlines() == [
        "the table mangle of iptables may drop what is forwarded",
        "only root can see the tables of iptables, of its old kind",
    ]
