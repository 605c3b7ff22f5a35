"""/etc/hosts, and files that change."""

import os

import pytest

from fwproxy.names import files
from fwproxy.names.files import HostsFile, Watched

TEXT = """\
# comment
127.0.0.1\tlocalhost
192.0.2.1  Server.Test server  # its name
2001:0DB8::1 server.test
192.0.2.2 other.test. server
fe80::1%lan0 zoned.test
no.address server.test
192.0.2.3
192.0.2.1 again.test
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "hosts"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("localhost", ("127.0.0.1",)),
        ("server.test", ("192.0.2.1", "2001:db8::1")),
        ("SERVER.TEST.", ("192.0.2.1", "2001:db8::1")),
        ("server", ("192.0.2.1", "192.0.2.2")),
        ("other.test", ("192.0.2.2",)),
        ("zoned.test", ("fe80::1%lan0",)),
        ("its", ()),
        ("test", ()),
    ],
)
def test_the_addresses_of_a_name(path, name, addresses):
    assert HostsFile(path).addresses(name) == addresses


def test_the_name_of_an_address_is_the_first_one(path):
    hosts = HostsFile(path)
    assert hosts.name_of("192.0.2.1") == "Server.Test"
    assert hosts.name_of("2001:db8::1") == "server.test"
    assert hosts.name_of("192.0.2.3") is None


def test_a_file_that_changes_is_read_again(path):
    hosts = HostsFile(path)
    assert hosts.addresses("other.test")
    path.write_text("192.0.2.9 other.test new.test\n")
    assert hosts.addresses("other.test") == ("192.0.2.9",)
    assert hosts.addresses("server.test") == ()
    path.unlink()
    assert hosts.addresses("other.test") == ()
    assert hosts.name_of("192.0.2.9") is None
    path.write_text(TEXT)
    assert hosts.addresses("other.test") == ("192.0.2.2",)


def test_a_file_that_does_not_change_is_read_once(path):
    hosts = HostsFile(path)
    assert hosts.addresses("other.test")
    reads = []
    hosts._read = lambda: reads.append(None) or ""
    assert hosts.addresses("other.test")
    assert not reads


def test_a_file_is_read_up_to_a_bound_and_by_whole_lines(path, monkeypatch):
    monkeypatch.setattr(files, "MAX_SIZE", TEXT.index(" again.test") + 3)
    hosts = HostsFile(path)
    assert hosts.addresses("other.test")
    assert hosts.addresses("again.test") == hosts.addresses("ag") == ()


def test_bytes_that_are_no_text_spoil_no_other_line(path):
    path.write_bytes(b"192.0.2.8 \xff.test\n192.0.2.9 good.test\n")
    assert HostsFile(path).addresses("good.test") == ("192.0.2.9",)


def test_every_kind_of_change_is_one(path):
    watched = Watched(path)
    assert watched.has_changed()
    assert not watched.has_changed()
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert watched.has_changed()
    stat = path.stat()
    other = path.with_name("other")
    other.write_text(TEXT)
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)
    assert watched.has_changed()
    path.unlink()
    assert watched.has_changed()
    assert not watched.has_changed()


def test_a_file_that_is_not_there_counts_as_changed_once(tmp_path):
    watched = Watched(tmp_path / "none")
    assert watched.has_changed()
    assert not watched.has_changed()
