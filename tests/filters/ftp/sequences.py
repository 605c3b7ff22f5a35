"""Random FTP sessions: what the two ends may say and what may happen to their data connections."""

from __future__ import annotations

from typing import Any, TypeAlias

from hypothesis import strategies as st

Step: TypeAlias = tuple[str, Any]
"""What happens next, and to what of it; a number picks one of those that there are."""

COMMANDS = (
    "PASV", "PASV x", "EPSV", "EPSV 1", "EPSV 2", "EPSV ALL", "EPSV 9", "LPSV", "LPRT 4,1",
    "RETR f", "STOR f", "STOU", "APPE f", "LIST", "NLST", "MLSD", "REST 5", "RETR",
    "ABOR", "\xff\xf4\xff\xf2ABOR", "STAT", "NOOP", "FEAT", "REIN", "QUIT", "PWD", "TYPE I",
    "USER joe", "USER joe@server.example", "USER @", "PASS x", "AUTH TLS", "AUTH SSL", "BANANA",
    "GET / HTTP/1.1", "",
)  # fmt: skip
"""Sent as they are. What sets up or uses data connections comes more often, see `client_lines`."""
BUSY = ("PASV", "EPSV", "RETR f", "STOR f", "LIST", "ABOR", "\xff\xf4\xff\xf2ABOR", "NOOP")
EVENTS = (
    "client comes", "server comes", "established", "data fails", "data ends",
    "expires", "calls wait", "calls go on", "calls fail", "calls work",
)  # fmt: skip
NUMBER = st.integers(0, 3)
PLAIN_REPLIES = (
    125, 150, 200, 202, 211, 220, 221, 225, 226, 230, 234, 250, 257, 331, 334, 350, 421, 425, 426,
    450, 451, 500, 501, 502, 503, 504, 530, 534, 550, 552,
)  # fmt: skip


def port_commands(host: str, port: int = 2000) -> st.SearchStrategy[bytes]:
    """PORT (with IPv4) and EPRT for an address."""
    high, low = divmod(port, 256)
    eprt = f"EPRT |{2 if ':' in host else 1}|{host}|{port}|"
    verbs = [eprt] if ":" in host else [eprt, f"PORT {host.replace('.', ',')},{high},{low}"]
    return st.sampled_from([verb.encode() for verb in verbs])


@st.composite
def odd_port_commands(draw: st.DrawFn, client: str, third: str) -> bytes:
    """PORT or EPRT: another host's address, another port, or nothing that can be read."""
    host = draw(st.sampled_from([client, third]))
    line = draw(port_commands(host, draw(st.sampled_from([0, 1, 1023, 1024, 65535, 65536]))))
    end = draw(st.integers(0, 2 * len(line)))
    return line[:end] + draw(st.sampled_from([b"", b"", b"x"]))


def client_lines(client: str, third: str) -> st.SearchStrategy[bytes]:
    """Lines of a client, without their ends."""
    commands = st.sampled_from(COMMANDS).map(lambda text: text.encode("latin-1"))
    busy = st.sampled_from(BUSY).map(lambda text: text.encode("latin-1"))
    garbage = st.tuples(st.sampled_from([b"", b"PORT ", b"EPRT ", b"EPSV "]), st.binary())
    return st.one_of(
        busy,
        busy,
        port_commands(client),
        odd_port_commands(client, third),
        commands,
        garbage.map(lambda both: both[0] + both[1]),
    )


@st.composite
def server_replies(draw: st.DrawFn, server: str, third: str) -> bytes:
    """Replies of all kinds, whatever was asked."""
    kind = draw(
        st.sampled_from(["plain", "plain", "plain", "plain", "lines", "227", "229", "garbage"])
    )
    if kind == "plain":
        return b"%d x\r\n" % draw(st.sampled_from(PLAIN_REPLIES))
    if kind == "lines":
        code = draw(st.sampled_from(PLAIN_REPLIES))
        return b"%d-a\r\n 226 b\r\n%d end\r\n" % (code, code)
    port = draw(st.sampled_from([0, 80, 1024, 3000, 65535, 65536]))
    if kind == "229":
        return b"229 x (|||%d|)\r\n" % port
    if kind == "227":
        host = draw(st.sampled_from([server, server, third])).replace(".", ",").encode()
        return b"227 x (%b,%d,%d)\r\n" % (host, *divmod(port, 256))
    return draw(st.binary(max_size=20)) + draw(st.sampled_from([b"", b"\r\n"]))


@st.composite
def transfers(draw: st.DrawFn, client: str, between: st.SearchStrategy[Step]) -> list[Step]:
    """One transfer, more or less."""
    setup = draw(port_commands(client) | st.sampled_from([b"PASV", b"EPSV", b"EPSV"]))
    transfer = draw(st.sampled_from([b"RETR f", b"STOR f", b"LIST", b"STOU"]))
    ideal: list[Step] = [
        ("client says", [setup]),
        ("server answers", 0),
        ("client comes", 0),
        ("client says", [transfer]),
        ("server comes", 0),
        ("server answers", 0),
        ("established", 0),
        draw(st.sampled_from([("data ends", 0), ("data fails", 0), ("client says", [b"ABOR"])])),
        ("server answers", 0),
    ]
    story: list[Step] = []
    for step in ideal:
        whim = draw(st.integers(0, 11))
        if whim == 11:
            story.append(draw(between))
        if whim != 10:
            story.append(step)
    return story


def stories(client: str, server: str, third: str) -> st.SearchStrategy[list[Step]]:
    """Transfers as they should be, but for steps that are left out and others that come between."""
    lines = client_lines(client, third)
    between = st.one_of(
        st.tuples(st.just("client says"), st.lists(lines, min_size=1, max_size=3)),
        st.tuples(st.just("server answers"), NUMBER),
        st.tuples(st.sampled_from(EVENTS), NUMBER),
        st.tuples(st.sampled_from(EVENTS), NUMBER),
        st.tuples(st.just("server says"), server_replies(server, third)),
        st.tuples(st.sampled_from(["client ends", "server ends"]), NUMBER),
    )
    auth: st.SearchStrategy[list[Step]] = st.just(
        [("client says", [b"AUTH TLS"]), ("server answers", 0)]
    )
    ideal = transfers(client, between)
    parts = st.lists(st.one_of(ideal, ideal, ideal, ideal, auth), min_size=1, max_size=4)
    return parts.map(lambda parts: [step for part in parts for step in part])
