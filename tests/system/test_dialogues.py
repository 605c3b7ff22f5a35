"""Long and odd conversations with real servers: through the proxy they go as they go directly."""

from __future__ import annotations

import os
import re
import secrets
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

import attrs
import pytest

from .conftest import StartServer
from .ends import ScriptedClient, active_command, knock, read_all, read_exactly
from .ftp_servers import VSFTPD, ProFTPD, PureFTPd, PyFTPdLib
from .matrix import LARGE, ONE_MIB, Samples
from .proxy import Listener, Proxy, running_proxy
from .server_kind import FTPServer, ServerKind
from .terms import LOOPBACK

SERVERS: tuple[type[ServerKind], ...] = (VSFTPD, PureFTPd, ProFTPD, PyFTPdLib)
SOME = 1 << 16
IAC_IP_IAC, DM = b"\xff\xf4\xff", b"\xf2"  # RFC 854; the urgent byte comes before the mark
IN_STEP = 257  # nothing else in these conversations is answered so
NAMES = (
    "Grüße-日本.txt".encode(),
    b"caf\xe9",  # ISO 8859-1
    b"a\xffb",
    b"a\xff\xffb",
    b"two  words",
    b" leading",
    b"100%",
    b"-x",
)
NOT_HERE = re.compile(rb"^ (AUTH|PBSZ|PROT|CCC|SSCN|LPRT|LPSV|CPSV|SPSV)\b", re.MULTILINE)

_Result = TypeVar("_Result")
Conversation: TypeAlias = Callable[[ScriptedClient], _Result]


@attrs.frozen
class Street:
    """The servers and the one proxy before them."""

    servers: dict[type[ServerKind], FTPServer]
    proxy: Proxy
    samples: Samples

    def directly(self, kind: type[ServerKind]) -> ScriptedClient:
        """A client that has logged in at the server."""
        client = ScriptedClient(self.servers[kind].target)
        client.login()
        return client

    def through_proxy(self, kind: type[ServerKind]) -> ScriptedClient:
        """A client that has logged in through the proxy."""
        client = ScriptedClient(self.proxy.target(kind.name, self.servers[kind]))
        client.login()
        return client

    def same(self, kind: type[ServerKind], conversation: Conversation[_Result]) -> _Result:
        """Talk directly and through the proxy; what came of it, which must be the same."""
        with self.directly(kind) as client:
            expected = conversation(client)
        with self.through_proxy(kind) as client:
            found = conversation(client)
            assert client.is_alive()
            assert client.fetch("mib.bin") == self.samples.content("mib.bin")
            assert client.code("QUIT") == 221
        assert found == expected
        return found


@pytest.fixture(scope="module")
def shared(start_server: StartServer, samples: Samples) -> Iterator[Street]:
    """All servers that are installed."""
    servers = {kind: start_server(kind, 4) for kind in SERVERS if not kind.missing()}
    listeners = [Listener(kind.name, LOOPBACK[4], server) for kind, server in servers.items()]
    with running_proxy(listeners) as proxy:
        yield Street(servers, proxy, samples)
        proxy.finish()


@pytest.fixture
def street(shared: Street) -> Iterator[Street]:
    """The proxy, which every test must leave as it was."""
    with shared.proxy.left_as_it_was():
        yield shared


@pytest.fixture(params=SERVERS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> type[ServerKind]:
    """Each of the servers."""
    found: type[ServerKind] = request.param
    if lack := found.missing():
        pytest.skip(f"package missing: {lack}")
    return found


def of(*kinds: type[ServerKind]) -> pytest.MarkDecorator:
    """For these servers alone."""
    return pytest.mark.parametrize("kind", kinds, ids=lambda kind: kind.name, indirect=True)


def codes_until_in_step(client: ScriptedClient) -> list[int]:
    """The codes of all replies that are still to come."""
    client.send(b"PWD\r\n")
    codes = []
    while (code := client.code()) != IN_STEP:
        codes.append(code)
    return codes


def start(client: ScriptedClient, command: bytes) -> socket.socket:
    """Start a passive transfer of something; the data connection."""
    data = client.open_data()
    assert client.code(command) in {125, 150}
    return data


def store(client: ScriptedClient, command: bytes, content: bytes) -> int:
    """Store something; the code of the reply at the end."""
    with client.open_data() as data:
        code = client.code(command)
        if code not in {125, 150}:
            return code
        data.sendall(content)
    return client.code()


def fetch(client: ScriptedClient, command: bytes, content: bytes) -> int:
    """Fetch something that must have this content; the code of the reply at the end."""
    with client.open_data() as data:
        code = client.code(command)
        if code not in {125, 150}:
            return code
        assert read_all(data) == content
    return client.code()


def without_numbers(text: bytes) -> bytes:
    """The text without what differs from one time to the next."""
    return re.sub(rb"\d+", b"#", text)


# During a transfer.


def test_abor_with_synch(kind: type[ServerKind], street: Street) -> None:
    def talk(client: ScriptedClient) -> list[int]:
        with start(client, b"RETR large.bin") as data:
            read_exactly(data, SOME)
            client.sock.send(IAC_IP_IAC, socket.MSG_OOB)
            client.send(DM + b"ABOR\r\n")
            # Pure-FTPd looks at its control connection only when it can send data.
            while not select.select([client.sock], [], [], 0.001)[0]:
                data.recv(SOME)
        return codes_until_in_step(client)

    assert street.same(kind, talk) == [426, 226]


@of(VSFTPD, ProFTPD)
def test_abor_without_synch_is_heard_when_the_data_connection_ends(
    kind: type[ServerKind], street: Street
) -> None:
    def talk(client: ScriptedClient) -> list[int]:
        with start(client, b"RETR large.bin") as data:
            read_exactly(data, SOME)
            client.send(b"ABOR\r\n")
        return codes_until_in_step(client)

    assert street.same(kind, talk) == [426, 225 if kind is VSFTPD else 226]


def test_abor_of_an_upload(kind: type[ServerKind], street: Street) -> None:
    name = f"incoming/{secrets.token_hex(8)}".encode()

    def talk(client: ScriptedClient) -> list[int]:
        with start(client, b"STOR " + name) as data:
            data.sendall(bytes(SOME))
            client.sock.send(IAC_IP_IAC, socket.MSG_OOB)
            client.send(DM + b"ABOR\r\n")
            first = client.code()
        codes = [first, *codes_until_in_step(client)]
        client.code(b"DELE " + name)
        return sorted(codes)  # ProFTPD may answer ABOR before the transfer

    street.same(kind, talk)


def test_abor_between_transfers(kind: type[ServerKind], street: Street) -> None:
    def talk(client: ScriptedClient) -> list[int]:
        client.passive()  # and nothing comes of it
        return [client.code("ABOR"), client.code("ABOR")]

    assert set(street.same(kind, talk)) <= {225, 226}


def test_stat_during_a_transfer(kind: type[ServerKind], street: Street) -> None:
    def talk(client: ScriptedClient) -> list[int]:
        with start(client, b"RETR large.bin") as data:
            read_exactly(data, SOME)
            client.send(b"STAT\r\n")
            assert len(read_all(data)) == LARGE - SOME
        return sorted(codes_until_in_step(client))  # some answer at once, others in the end

    assert street.same(kind, talk) == ([226, 500] if kind is PureFTPd else [211, 226])


# Ways to transfer.


def test_rest(kind: type[ServerKind], street: Street) -> None:
    def talk(client: ScriptedClient) -> tuple[int, bytes]:
        return client.code(f"REST {ONE_MIB // 3}"), client.fetch("mib.bin")

    code, content = street.same(kind, talk)
    assert code == 350
    assert content == street.samples.content("mib.bin")[ONE_MIB // 3 :]


def test_stou_stores_under_the_name_that_the_client_is_told(
    kind: type[ServerKind], street: Street
) -> None:
    content = secrets.token_bytes(SOME)

    def talk(client: ScriptedClient) -> list[int]:
        codes = [client.code("CWD incoming")]
        with client.open_data() as data:
            reply = client.ask("STOU")
            data.sendall(content)
        codes += [int(reply[:3]), client.code()]
        (name,) = re.findall(rb"FILE: (\S+)", reply)
        stored = street.samples.root / "incoming" / os.fsdecode(name)
        assert stored.read_bytes() == content
        codes += [client.code(b"DELE " + name), client.code("CWD /")]
        return [code // 100 for code in codes]  # pyftpdlib chooses between 125 and 150

    assert street.same(kind, talk) == [2, 1, 2, 2, 2]


def test_mlsd(kind: type[ServerKind], street: Street) -> None:
    def talk(client: ScriptedClient) -> list[bytes]:
        with client.open_data() as data:
            if client.code("MLSD small") not in {125, 150}:
                return []
            listing = read_all(data)
        assert client.code() == 226
        return sorted(listing.splitlines())

    listing = street.same(kind, talk)
    if kind is not VSFTPD:  # which does not know it
        assert [line for line in listing if line.endswith(b" 07.bin")]


# Names.


def test_names_of_all_kinds(kind: type[ServerKind], street: Street) -> None:
    def talk(client: ScriptedClient) -> tuple[list[int], list[bytes], bytes]:
        directory = f"incoming/{secrets.token_hex(8)}".encode()
        there = os.fsencode(street.samples.root) + b"/" + directory
        codes = [client.code(b"OPTS UTF8 ON"), client.code(b"MKD " + directory)]
        assert codes[-1] == IN_STEP
        codes.append(client.code(b"CWD " + directory))
        for name in NAMES:
            codes.append(store(client, b"STOR " + name, name))
            codes.append(fetch(client, b"RETR " + name, name))
        names = sorted(os.listdir(there))  # noqa: PTH208 - as bytes
        listing = client.fetch_bytes(b"NLST")
        codes += [client.code(b"DELE " + name) for name in names]  # "_leading" with Pure-FTPd
        codes += [client.code("CWD /"), client.code(b"RMD " + directory)]
        assert not Path(os.fsdecode(there)).exists()
        return codes, names, b"\n".join(sorted(listing.splitlines()))

    _, names, _ = street.same(kind, talk)
    assert {NAMES[0], NAMES[4], NAMES[6]} <= set(names)


# Several commands at once, and starting over.


def test_pipelined_commands(kind: type[ServerKind], street: Street) -> None:
    commands = [
        b"PWD", b"NOOP", b"SIZE mib.bin", b"ABOR", b"SYST", b"HELP", b"STAT", b"MDTM mib.bin",
        b"CWD nowhere", b"TYPE A", b"TYPE I", b"XPWD", b"MODE S", b"STRU F", b"REST 0",
    ]  # fmt: skip

    def talk(client: ScriptedClient) -> list[bytes]:
        client.send(b"".join(command + b"\r\n" for command in commands))
        return [without_numbers(client.reply()) for _ in commands]

    street.same(kind, talk)


@of(VSFTPD, ProFTPD)
def test_pipelined_transfers(kind: type[ServerKind], street: Street) -> None:
    def talk(client: ScriptedClient) -> list[int]:
        names = ["mib.bin", "one.bin", "medium.bin"]
        listeners = [client.listen() for _ in names]
        lines = [
            f"{active_command(listener, verb)}\r\nRETR {name}\r\n"
            for name, verb, listener in zip(names, ("EPRT", "PORT", "EPRT"), listeners, strict=True)
        ]
        client.send("".join(lines).encode())
        for name, listener in zip(names, listeners, strict=True):
            with listener, listener.accept()[0] as data:
                data.settimeout(10)
                assert read_all(data) == street.samples.content(name)
        return codes_until_in_step(client)

    assert street.same(kind, talk) == [200, 150, 226] * 3


@of(PyFTPdLib)
def test_rein_withdraws_the_port_and_a_new_login_works(
    kind: type[ServerKind], street: Street
) -> None:
    server = street.servers[kind]

    def talk(client: ScriptedClient) -> list[int]:
        return [
            client.code("REIN"),
            client.code("PWD"),
            client.code(f"USER {server.username}"),
            client.code(f"PASS {server.password}"),
            client.code("TYPE I"),
        ]

    assert street.same(kind, talk) == [230, 530, 331, 230, 200]
    with street.through_proxy(kind) as client:
        address = client.passive()
        assert client.code("REIN") == 230
        assert knock(*address) == "refused"


@of(VSFTPD, PureFTPd, ProFTPD)
def test_rein_that_a_server_does_not_know(kind: type[ServerKind], street: Street) -> None:
    assert street.same(kind, lambda client: client.code("REIN")) in {500, 502}


def test_feat_is_shortened_by_what_cannot_work(kind: type[ServerKind], street: Street) -> None:
    with street.directly(kind) as direct, street.through_proxy(kind) as client:
        possible = [line for line in features(direct) if not NOT_HERE.match(line)]
        assert features(client) == possible
        assert b" EPSV" in possible


def features(client: ScriptedClient) -> Sequence[bytes]:
    return client.ask("FEAT").splitlines()
