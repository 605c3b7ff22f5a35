"""The systemd unit and the kernel settings in packaging/, as far as they can be tried here."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fwproxy.cli import main

PACKAGING = Path(__file__).parents[1] / "packaging"
UNIT = PACKAGING / "fwproxy.service"
INSTALLED = "/usr/bin/fwproxy"
HARDENING = {
    "DynamicUser", "NoNewPrivileges", "LockPersonality", "MemoryDenyWriteExecute",
    "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "ProtectHome", "PrivateTmp",
    "PrivateDevices", "ProtectClock", "ProtectHostname", "ProtectControlGroups",
    "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "RemoveIPC",
}  # fmt: skip
MAX_EXPOSURE = 25
"""As `systemd-analyze security` counts it, in tenths: a service without any hardening has 96."""
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1
NEEDS_SYSTEMD = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="package missing: systemd"
)


def keys(section: str) -> dict[str, list[str]]:
    """Return the keys of a section of the unit, each with all its values."""
    found: dict[str, list[str]] = {}
    current = ""
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            current = line.strip("[]")
        elif current == section and not line.startswith("#"):
            key, sign, value = line.partition("=")
            assert sign or not line, line
            found.setdefault(key, []).append(value)
    return found


def analyze(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def copy_of_unit(directory: Path, *, without: str = "", more: str = "") -> Path:
    """Write a unit that starts what is installed here, some of its lines left out or added."""
    program = str(Path(sys.executable).with_name("fwproxy"))
    lines = UNIT.read_text(encoding="utf-8").replace(INSTALLED, program).splitlines()
    kept = [line for line in lines if not without or not line.startswith(without)]
    text = "\n".join(kept).replace("[Service]", f"[Service]\n{more}")
    path = directory / "fwproxy.service"
    path.write_text(text + "\n", encoding="utf-8")
    return path


@NEEDS_SYSTEMD
@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ("", ""),
        ("ProtectHom=yes", "'ProtectHom'"),
        ("SystemCallFilter=@no-such-group", "@no-such-group"),
        ("ExecStartPre=/usr/bin/no-such-program", "no-such-program is not executable"),
    ],
)
def test_systemd_understands_the_unit(tmp_path: Path, more: str, complaint: str) -> None:
    done = analyze("verify", "--man=no", copy_of_unit(tmp_path, more=more))
    said = [line for line in done.stderr.splitlines() if "fwproxy.service" in line]
    if complaint:
        assert complaint in "\n".join(said)
    else:
        assert (done.returncode, said) == (0, [])


@NEEDS_SYSTEMD
@pytest.mark.parametrize(("without", "is_enough"), [("", True), ("Protect", False)])
def test_the_unit_is_not_exposed(
    tmp_path: Path,
    without: str,
    is_enough: bool,  # noqa: FBT001 - a parameter of pytest
) -> None:
    if "--offline" not in analyze("--help").stdout:
        pytest.skip("package missing: systemd 250 or newer")
    unit = copy_of_unit(tmp_path, without=without)
    done = analyze("security", "--offline=true", f"--threshold={MAX_EXPOSURE}", unit)
    assert (done.returncode == 0) is is_enough, done.stdout


def test_the_unit_is_hardened() -> None:
    service = keys("Service")
    assert {key for key in HARDENING if service.get(key) != ["yes"]} == set()
    assert service["ProtectSystem"] == ["strict"]
    capabilities = set(service["AmbientCapabilities"][0].split())
    assert capabilities == {"CAP_NET_BIND_SERVICE", "CAP_NET_ADMIN"}
    assert set(service["CapabilityBoundingSet"][0].split()) == capabilities
    families = set(service["RestrictAddressFamilies"][0].split())
    assert {"AF_INET", "AF_INET6", "AF_NETLINK"} <= families


@pytest.mark.parametrize("key", ["ExecStartPre", "ExecStart"])
def test_the_unit_starts_what_there_is(key: str) -> None:
    (line,) = keys("Service")[key]
    program, command, *options, path = shlex.split(line)
    assert (program, path) == (INSTALLED, "/etc/fwproxy/fwproxy.toml")
    assert command == {"ExecStartPre": "check", "ExecStart": "run"}[key]
    result = CliRunner().invoke(main, [command, *options, "/no/such/file"])
    assert "/no/such/file" in result.output  # and neither an option nor the command is unknown


def test_the_kernel_settings_exist() -> None:
    text = (PACKAGING / "99-fwproxy.conf").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    names = [line.partition("=")[0].strip() for line in lines]
    assert len(names) == 3
    for name in names:
        assert Path("/proc/sys", *name.split(".")).exists(), name


UNDER_MDWE = """
import ctypes, sys
if ctypes.CDLL(None).prctl({option}, {value}, 0, 0, 0):
    sys.exit("no such option")
from fwproxy.datapath.kernel.netlink import can_administer, open_events
from fwproxy.datapath.kernel.nft import Nftables
if can_administer():
    nft = Nftables()
    nft.run("list tables")
    nft.close()
    open_events(1).close()
from fwproxy.cli import main
main(["filters"])
"""


def test_it_works_where_memory_is_either_writable_or_executable() -> None:
    code = UNDER_MDWE.format(option=PR_SET_MDWE, value=REFUSE_EXEC_GAIN)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    if "no such option" in done.stderr:
        pytest.skip("needs Linux 6.3")
    assert (done.returncode, done.stderr) == (0, "")
    assert "ftp" in done.stdout
