"""What curl's own tests of SOCKS and CONNECT expect (tests/data/test700 to test742), of the proxy.

There curl is tested with a scripted proxy; here the proxy is, with curl. The number in front of a
case is that of curl's test. Left out are those where no proxy is asked (704, 705, 716, 728: curl
gives up by itself) and FTP by SOCKS (706, 707, 711 to 713), which test_ftp_ways_in.py has.
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
import threading
from collections.abc import Iterator, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import attrs
import pytest

from fwproxy import users
from fwproxy.users import PasswordHash

from .ftp_clients import Curl
from .matrix import Samples
from .processes import clean_environment
from .proxy import Listener, Proxy, running_proxy
from .terms import LOOPBACK

OK, PROXY_FAILED, GOT_NOTHING_OF_PROXY = 0, 97, 56  # curl's exit codes
USER, PASSWORD = "uz3r", "p4ssworm"
LONG_USER, LONG_PASSWORD = "a" * 255, "b" * 255
KINDS = ("socks", "http", "mixed", "users")


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


class IPv6Server(ThreadingHTTPServer):
    address_family = 10


@attrs.frozen
class Scene:
    """The proxy, and one web server on each loopback address, on the same port."""

    proxy: Proxy
    port: int
    directory: Path

    def curl(self, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
        """Run it; {port} is the servers', {socks} and so on are the listeners."""
        known = {name: f"127.0.0.1:{self.proxy.listeners[name][1]}" for name in KINDS}
        fill = functools.partial(str.format, port=self.port, **known)
        command = ["curl", "-q", "-sS", "--max-time", "10", *map(fill, words)]
        env = clean_environment(self.directory)
        env |= {name: fill(value) for name, value in environment.items()}
        return subprocess.run(command, env=env, capture_output=True, check=False, timeout=20)


@contextlib.contextmanager
def serving(root: Path) -> Iterator[int]:
    handler = functools.partial(QuietHandler, directory=root)
    first = ThreadingHTTPServer((LOOPBACK[4], 0), handler)
    port = first.server_address[1]
    with first, IPv6Server((LOOPBACK[6], port), handler) as second:
        threads = [threading.Thread(target=each.serve_forever) for each in (first, second)]
        for thread in threads:
            thread.start()
        try:
            yield port
        finally:
            for server, thread in zip((first, second), threads, strict=True):
                server.shutdown()
                thread.join()


@pytest.fixture(scope="module")
def scene(samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    if lack := Curl.missing():
        pytest.skip(f"package missing: {lack}")
    directory = tmp_path_factory.mktemp("curl")
    passwords = {USER: PASSWORD, LONG_USER: LONG_PASSWORD}
    users.write(
        directory / "users",
        {user: PasswordHash.make(word.encode(), cost_log2=4) for user, word in passwords.items()},
    )
    listeners = [Listener(kind, LOOPBACK[4], kind=kind, protocol=None) for kind in KINDS[:3]]
    keys = {"users": str(directory / "users")}
    listeners.append(Listener("users", LOOPBACK[4], kind="mixed", protocol=None, keys=keys))
    rules = '[[rules]]\naction = "allow"\n'
    with serving(samples.root) as port, running_proxy(listeners, rules) as proxy:
        yield Scene(proxy, port, directory)
        proxy.finish()


FILE = "http://127.0.0.1:{port}/one.bin"
BY_IPV6, BY_NAME = "http://[::1]:{port}/one.bin", "http://localhost:{port}/one.bin"
NOBODY_LISTENS = "http://127.0.0.1:1/one.bin"  # tcpmux, which nobody has run for decades
LONG_LOGIN = f"{LONG_USER}:{LONG_PASSWORD}"

FETCHED = {
    "700 SOCKS4": ["--socks4", "{socks}", FILE],
    "701 SOCKS5": ["--socks5", "{socks}", FILE],
    "710 a SOCKS5 proxy by --proxy": ["-x", "socks5://{mixed}", FILE],
    "717 SOCKS5 proxy auth": ["-x", f"socks5://{USER}:{PASSWORD}@{{users}}", FILE],
    "719 IPv6 numerical by SOCKS5h": ["-x", "socks5h://{socks}", BY_IPV6],
    "720 IPv4 numerical by SOCKS5h": ["-x", "socks5h://{socks}", FILE],
    "721 a name by SOCKS5h": ["-x", "socks5h://{socks}", BY_NAME],
    "742 credentials as long as can be": ["-x", f"socks5h://{LONG_LOGIN}@{{users}}", FILE],
    "a name by SOCKS4a": ["-x", "socks4a://{socks}", BY_NAME],
    "SOCKS4 with a user, which nobody asks for": ["-x", f"socks4://{USER}@{{socks}}", FILE],
    "CONNECT": ["-p", "-x", "http://{http}", FILE],
    "CONNECT with HTTP/1.0": ["-p", "--proxy1.0", "{http}", FILE],
    "CONNECT with Basic auth": ["-p", "-x", f"http://{USER}:{PASSWORD}@{{users}}", FILE],
    "CONNECT with Basic auth once it is asked for": [
        "-p", "--proxy-anyauth", "-x", f"http://{USER}:{PASSWORD}@{{users}}", FILE,
    ],
    "715 a proxy by a proxy": [
        "-p", "-x", "http://{http}", "--preproxy", "socks5://{socks}", FILE,
    ],
    "715 the same listener by itself": [
        "-p", "-x", "http://{mixed}", "--preproxy", "socks5h://{mixed}", FILE,
    ],
}  # fmt: skip

FAILING: dict[str, tuple[int, str, Sequence[str]]] = {
    "702 SOCKS4 to a server that does not listen": (
        PROXY_FAILED, "refused", ["--socks4", "{socks}", NOBODY_LISTENS]),
    "703 SOCKS5 to a server that does not listen": (
        PROXY_FAILED, "refused", ["--socks5", "{socks}", NOBODY_LISTENS]),
    "718 CONNECT without a login": (
        GOT_NOTHING_OF_PROXY, "has left in the middle", ["-p", "-x", "http://{users}", FILE]),
    "718 CONNECT with a wrong login": (
        GOT_NOTHING_OF_PROXY, "has left in the middle",
        ["-p", "-x", f"http://{USER}:wrong@{{users}}", FILE]),
    "717 SOCKS5 with a wrong password": (
        PROXY_FAILED, "wrong user name or password",
        ["-x", f"socks5://{USER}:wrong@{{users}}", FILE]),
    "717 SOCKS5 without any": (
        PROXY_FAILED, "cannot do method 2", ["-x", "socks5://{users}", FILE]),
    "729 SOCKS4 with a very long user": (
        PROXY_FAILED, "", ["-x", f"socks4a://{'a' * 1000}@{{socks}}", "http://fake/"]),
    "742 a name as long as can be, which none is": (
        PROXY_FAILED, "is not a host name",
        ["-x", f"socks5h://{LONG_LOGIN}@{{users}}", f"http://{'c' * 254}:{{port}}/"]),
    "SOCKS to a listener for HTTP": (
        PROXY_FAILED, "no request", ["--socks5", "{http}", FILE]),
    "HTTP to a listener for SOCKS": (
        GOT_NOTHING_OF_PROXY, "begins no handshake", ["-p", "-x", "http://{socks}", FILE]),
    "a request by HTTP that is no CONNECT": (
        22, "the method", ["--fail", "-x", "http://{http}", FILE]),
}  # fmt: skip


@pytest.mark.parametrize("case", FETCHED)
def test_curl_fetches(scene: Scene, samples: Samples, case: str) -> None:
    done = scene.curl(*FETCHED[case])
    assert (done.returncode, done.stderr) == (OK, b"")
    assert done.stdout == samples.content("one.bin")


@pytest.mark.parametrize("case", FAILING)
def test_curl_fails_as_it_should(scene: Scene, case: str) -> None:
    code, reason, words = FAILING[case]
    start = len(scene.proxy.lines())
    done = scene.curl(*words)
    assert (done.returncode, done.stdout) == (code, b""), done.stderr
    assert not reason or scene.proxy.await_reason(reason, start)


@pytest.mark.parametrize(
    ("url", "host"), [(FILE, "127.0.0.1"), (BY_IPV6, "[::1]"), (BY_NAME, "127.0.0.1")]
)
def test_719_to_721_what_the_proxy_is_asked_for(scene: Scene, url: str, host: str) -> None:
    start = len(scene.proxy.lines())
    assert scene.curl("-x", "socks5h://{socks}", url).returncode == OK
    (closed,) = scene.proxy.await_log("connection closed", start)
    hosts = {"[::1]", "127.0.0.1"} if url is BY_NAME else {host}
    assert closed["server"].rpartition(":")[0] in hosts


@pytest.mark.parametrize("scheme", ["socks4", "socks4a", "socks5", "socks5h"])
def test_708_709_the_proxy_by_the_environment(scene: Scene, samples: Samples, scheme: str) -> None:
    start = len(scene.proxy.lines())
    done = scene.curl(FILE, all_proxy=f"{scheme}://{{socks}}")
    assert done.stdout == samples.content("one.bin")
    assert scene.proxy.await_log("connection closed", start, listener="socks")


PROXIES = ["socks5h://{socks}", "socks4a://{mixed}", "http://{http}"]


@pytest.mark.parametrize("proxy", PROXIES)
def test_many_at_a_time(scene: Scene, samples: Samples, proxy: str) -> None:
    """As curl's test_40_socks.py does, by its --parallel."""
    names = [f"small/{number:02}.bin" for number in range(20)]
    target = scene.directory / "many"
    url = "http://127.0.0.1:{port}/small/[00-19].bin"
    output = ["--create-dirs", "-o", f"{target}/small/#1.bin"]
    done = scene.curl("-p", "-Z", "--parallel-max", "20", "-x", proxy, *output, url)
    assert done.returncode == OK, done.stderr
    assert all((target / name).read_bytes() == samples.content(name) for name in names)
    for name in names:
        (target / name).unlink()
