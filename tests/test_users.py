"""The file of users: what scrypt has made of passwords, and nothing else."""

import hashlib
import os
import stat

import argon2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwproxy import users
from fwproxy.argon2_hash import Argon2Hash
from fwproxy.errors import ConfigError
from fwproxy.users import PasswordHash

SALT = b"0123456789abcdef"


def test_a_hash_is_that_of_scrypt_and_of_its_password_alone():
    made = PasswordHash.make(b"secret", cost_log2=4)
    assert made.digest == hashlib.scrypt(b"secret", salt=made.salt, n=16, r=8, p=1, dklen=32)
    assert made.is_of(b"secret")
    assert not made.is_of(b"Secret")
    assert PasswordHash.make(b"secret", cost_log2=4).salt != made.salt
    assert "digest" not in repr(made)
    assert "salt" not in repr(made)


@given(st.binary(min_size=8, max_size=32), st.binary(min_size=16, max_size=64))
def test_a_hash_that_was_written_is_read(salt, digest):
    made = PasswordHash(4, 8, 1, salt, digest)
    assert PasswordHash.parse(str(made)) == made


GOOD = str(PasswordHash(4, 8, 1, SALT, bytes(32)))


@pytest.mark.parametrize(
    "text",
    [
        "", "secret", "$2b$12$abc", GOOD.replace("scrypt", "argon2"), GOOD.replace("ln=4", "ln=0"),
        GOOD.replace("ln=4", "ln=33"), GOOD.replace("r=8", "r=0"), GOOD.replace("p=1", "p=0"),
        GOOD.replace("ln=4", "ln=25"), GOOD + "$", GOOD.rpartition("$")[0] + "$AAAA",
        "$scrypt$ln=4,r=8,p=1$AAAA$" + GOOD.rpartition("$")[2],
    ],
)  # fmt: skip
def test_what_is_no_hash_or_too_dear_is_an_error(text):
    with pytest.raises(ValueError, match=r"scrypt|base 64|cost"):
        PasswordHash.parse(text)


def test_a_file_is_for_its_owner_alone_and_read_again(tmp_path):
    path = tmp_path / "users"
    known = {name: PasswordHash.make(name.encode(), cost_log2=4) for name in ("bert", "anna ü")}
    users.write(path, known)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert users.read(path) == known
    path.chmod(0o640)
    users.write(path, {"anna": known["bert"]})
    assert stat.S_IMODE(path.stat().st_mode) == 0o640, "what its owner has decided"
    assert list(users.read(path)) == ["anna"]
    assert [each.name for each in tmp_path.iterdir()] == ["users"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"anna:{GOOD}\n\n# a comment\nanna:{GOOD}\n", ":4: the user 'anna' again"),
        ("anna:secret\n", ":1: no hash"),
        (f":{GOOD}\n", ":1: '' is no user name"),
        (f"{'a' * 256}:{GOOD}\n", ":1: "),
        ("anna\n", ":1: no hash"),
        ("\xff\n", ":1: "),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, problem):
    path = tmp_path / "users"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        users.read(path)
    assert str(caught.value).startswith(f"{path}{problem}")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        users.read(tmp_path / "users")


def test_a_file_that_cannot_be_written_stays(tmp_path):
    path = tmp_path / "users"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        users.write(path, {})
    assert [each.name for each in tmp_path.iterdir()] == ["users"]


@pytest.mark.parametrize("name", ["", " a", "a ", "a:b", "#a", "a\nb", "a\0", "ü" * 128])
def test_what_cannot_be_a_user_name(name):
    with pytest.raises(ValueError, match="no user name"):
        users.check_name(name)


@pytest.mark.parametrize("kind", ["pipe", "directory"])
def test_what_is_no_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "users"
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    with pytest.raises(ConfigError, match=r"no regular file|Is a directory"):
        users.read(path)


# Argon2: made elsewhere, here by the library that is an extra.


@pytest.fixture(scope="module")
def made() -> str:
    return argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=2).hash("secret")


def test_a_hash_of_argon2_is_of_its_password_alone_and_stays_as_it_is(tmp_path, made):
    path = tmp_path / "users"
    path.write_text(f"anna:{made}\nbert:{GOOD}\n")
    known = users.read(path)
    assert known["anna"].is_of(b"secret")
    assert not known["anna"].is_of(b"Secret")
    assert made not in repr(known)
    users.write(path, known)
    assert path.read_text() == f"anna:{made}\nbert:{GOOD}\n"


def test_what_stands_for_nobody_costs_as_much_and_is_of_no_password(made):
    for each in (Argon2Hash.parse(made), PasswordHash.make(b"secret", cost_log2=4)):
        nobody = each.like()
        assert (nobody.work, nobody.memory) == (each.work, each.memory)
        assert str(nobody) != str(each)
        assert not nobody.is_of(b"secret")
        assert type(nobody).parse(str(nobody)) == nobody


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("argon2id", "argon2i"), ("v=19", "v=16"), ("m=64", "m=262145"), ("m=64", "m=15"),
        ("t=1", "t=17"), ("t=1", "t=0"), ("p=2", "p=17"), ("p=2", "p=0"), ("$m", "$$m"),
    ],
)  # fmt: skip
def test_what_is_no_argon2id_or_too_dear_is_an_error(tmp_path, made, old, new):
    path = tmp_path / "users"
    path.write_text(f"anna:{made.replace(old, new, 1)}\n")
    with pytest.raises(ConfigError, match=r":1: (no hash of|a cost)"):
        users.read(path)


def test_without_the_extra_the_line_and_the_way_out_are_named(tmp_path, made, monkeypatch):
    path = tmp_path / "users"
    path.write_text(f"bert:{GOOD}\nanna:{made}\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r":2: .*pip install 'fwproxy\[argon2\]'"):
        users.read(path)
