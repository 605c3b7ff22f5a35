"""S30, S32, S33: which data path, and why, as a table."""

import pytest

from fwproxy import SecondaryFlags, Transport
from fwproxy.datapath.choice import HERE, DataPath, choose

KERNEL = HERE | {DataPath.KERNEL}
F = SecondaryFlags
BY_FTP = {"attached": ["ftp"]}
EXPECTED = {"expected": ["Recorder"]}
HEARD = {"heard": "AcceptedConnection"}
NO_KERNEL = {"flags": F.NO_KERNEL_MODE | F.TIMEOUT}


@pytest.mark.parametrize(
    ("facts", "path", "reason", "takes_filters"),
    [
        ({}, DataPath.KERNEL, "no data filter", False),
        ({"flags": F.TIMEOUT}, DataPath.KERNEL, "no data filter", False),
        (NO_KERNEL, None, "NO_KERNEL_MODE", True),
        (HEARD, None, "a filter hears AcceptedConnection", True),
        (EXPECTED, DataPath.USER, "data filter expected from Recorder", True),
        (BY_FTP, DataPath.USER, "data filter attached by ftp", True),
        # The first reason counts.
        (NO_KERNEL | HEARD, None, "NO_KERNEL_MODE", True),
        (EXPECTED | NO_KERNEL | HEARD, DataPath.USER, "data filter expected from Recorder", True),
        (BY_FTP | EXPECTED | NO_KERNEL, DataPath.USER, "data filter attached by ftp", True),
        (
            {"attached": ["ftp", "av", "ftp"]},
            DataPath.USER,
            "data filter attached by ftp, av",
            True,
        ),
    ],
)
@pytest.mark.parametrize(
    ("transport", "plain"),
    [(Transport.TCP, DataPath.SPLICE), (Transport.UDP, DataPath.DATAGRAM)],
)
def test_s30_kernel_mode_iff_nobody_wants_to_see_the_bytes(
    facts, path, reason, takes_filters, transport, plain
):
    choice = choose(transport, "AcceptedConnection", available=KERNEL, **facts)
    assert choice.path is (path or plain)
    assert choice.reason == reason
    assert choice.takes_filters is takes_filters
    assert choice.event == "AcceptedConnection"


@pytest.mark.parametrize("facts", [{}, NO_KERNEL, HEARD, EXPECTED, BY_FTP])
def test_s31_whether_filters_may_still_come_does_not_depend_on_the_host(facts):
    here = choose(Transport.TCP, "ConnectTcp", **facts)
    there = choose(Transport.TCP, "ConnectTcp", available=KERNEL, **facts)
    assert here.takes_filters is there.takes_filters
    assert here.reason == there.reason
    assert here.path is not DataPath.KERNEL
