"""The scripted session: bytes, time and secondary connections in it are as they really are."""

from __future__ import annotations

from pathlib import Path

import pytest
from shouting import DATA, OWN, SERVER_DATA, F, ShoutFilter, bind, redirect

from fwproxy import Endpoint, IpFilter, ListenerKind, Transport, users
from fwproxy.config.config import Limits
from fwproxy.errors import AddressInUseError, AddressNotAvailableError
from fwproxy.testing import CLIENT, PROXY_INSIDE, PROXY_OUTSIDE, SERVER, Script
from fwproxy.users import PasswordHash

# Bytes.


def test_bytes_pass_through_the_filter_and_are_there_when_the_call_returns() -> None:
    with Script(ShoutFilter) as script:
        script.client.send(b"hello", b" world")
        assert script.server.take() == b"HELLO WORLD"
        assert script.server.take() == b""
        script.server.send(b"hi")
        assert script.client.received == b"hi"
        assert script.client.take() == b"hi"


def test_without_a_filter_too() -> None:
    with Script() as script:
        script.client.send(b"hello")
        assert script.server.take() == b"hello"
        assert script.connection.data_path == "splice"


def test_ends_are_passed_on_one_by_one() -> None:
    with Script(ShoutFilter) as script:
        connection = script.connection
        script.client.end()
        assert script.server.has_ended
        assert not script.client.has_ended
        script.server.send(b"still here")
        assert script.client.take() == b"still here"
        script.server.end()
        assert script.client.has_ended
        assert connection.is_closed
        assert script.client.is_gone


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_breaks_the_other_side(who: str) -> None:
    with Script(ShoutFilter) as script:
        one, other = script.client, script.server
        if who == "server":
            one, other = other, one
        one.reset()
        assert other.is_reset
        assert not other.has_ended
        other.send(b"too late")
        other.end()
        other.reset()


def test_whoever_sends_to_a_closed_connection_is_reset() -> None:
    with Script(ShoutFilter) as script:
        script.connection.kill()
        script.client.is_reset = False
        script.client.send(b"anybody?")
        assert script.client.is_reset


def test_unread_bytes_make_the_close_a_reset() -> None:
    with Script(ShoutFilter) as script:
        script.client.send(b"when?", b"unread")
        script.connection.close("enough")
        assert script.client.is_reset
        assert script.server.has_ended
        assert not script.server.is_reset


def test_a_stalled_reader_holds_the_writer_up_and_nothing_is_lost() -> None:
    with Script(ShoutFilter, limits=Limits(max_buffer=16 * 1024)) as script:
        script.server.stall(room=10)
        for _ in range(20):
            script.client.send(b"x" * 4096)
        assert script.server.received == b"X" * 10
        assert script.connection.client_bytes < 20 * 4096
        script.server.read_on()
        assert script.server.take() == b"X" * 20 * 4096


# Time.


def test_time_passes_only_when_the_test_says_so() -> None:
    with Script(ShoutFilter) as script:
        script.client.send(b"when?")
        assert script.server.take() == b""
        script.advance(4.9)
        assert script.server.take() == b""
        script.client.send(b"!")
        script.advance(0.1)
        assert script.server.take() == b"WHEN?!"


def test_a_handler_that_takes_too_long_ends_its_connection() -> None:
    with Script(ShoutFilter, limits=Limits(filter_timeout=3)) as script:
        script.client.send(b"when?")
        script.advance(4)
        assert script.client.is_reset
        (failure,) = script.take_failures()
        assert isinstance(failure, TimeoutError)


def test_an_idle_connection_ends() -> None:
    with Script(ShoutFilter) as script:
        script.advance(Limits().idle_timeout + 1)
        assert script.client.is_reset


def test_permissions_expire() -> None:
    with Script() as script:
        redirection = redirect(script, flags=F.TIMEOUT)
        script.advance(59)
        assert len(script.permissions) == 1
        script.advance(2)
        assert not script.permissions
        assert redirection.actions[0].close_reason == "expired"
        with pytest.raises(ConnectionRefusedError):
            script.connect(redirection.internal_address)


# Secondary connections.


def test_the_server_comes_to_a_bound_port() -> None:
    with Script() as script:
        connection = bind(script)
        assert connection.proxy_address == Endpoint(PROXY_OUTSIDE[4], 40000)
        assert script.secondaries == [connection]
        server = script.connect(connection.proxy_address, SERVER[4])
        client = script.peer(OWN)
        assert client.remote.host == PROXY_INSIDE[4]
        server.send(b"there")
        client.send(b"back")
        assert (client.take(), server.take()) == (b"there", b"back")
        client.end()
        server.end()
        assert connection.is_closed
        assert not script.secondaries


def test_the_client_comes_to_a_redirected_port() -> None:
    with Script() as script:
        redirection = redirect(script)
        assert redirection.internal_address == Endpoint(PROXY_INSIDE[4], 40000)
        client = script.connect(redirection.internal_address)
        server = script.peer(SERVER_DATA)
        assert server.remote.host == PROXY_OUTSIDE[4]
        client.send(b"there")
        assert server.take() == b"there"


def test_ports_are_counted_up() -> None:
    with Script() as script:
        assert [bind(script).proxy_address.port for _ in range(3)] == [40000, 40001, 40002]


def test_a_stranger_is_cut_off() -> None:
    with Script() as script:
        connection = bind(script, ip_filter=IpFilter.only(SERVER[4]))
        assert script.connect(connection.proxy_address, "192.0.2.66").is_reset
        assert not connection.is_closed


def test_nobody_listens_where_nothing_is_permitted() -> None:
    with Script() as script, pytest.raises(ConnectionRefusedError):
        script.connect(Endpoint(PROXY_OUTSIDE[4], 40000))


def test_addresses_and_ports_are_refused_as_the_system_would() -> None:
    with Script() as script:
        taken = bind(script).proxy_address
        with pytest.raises(AddressInUseError):
            bind(script, proxy_address=taken)
        with pytest.raises(AddressNotAvailableError):
            bind(script, proxy_address=Endpoint("203.0.113.1"))


def test_ipv6_and_the_two_together() -> None:
    with Script(ShoutFilter, client=CLIENT[6], server=f"[{SERVER[6]}]:2000") as script:
        script.client.send(b"six")
        assert script.server.take() == b"SIX"
        (connection,) = script.run(
            script.session.bind_for_client([Endpoint(CLIENT[6], 5000)], protocol=DATA)
        )
        assert connection.proxy_address == Endpoint(PROXY_OUTSIDE[6], 40000)
    with Script(ShoutFilter, client=CLIENT[6]) as script:
        script.client.send(b"four")
        assert script.server.take() == b"FOUR"


def test_datagrams() -> None:
    with Script() as script:
        connection = bind(
            script, transport=Transport.UDP, flags=F.BIDIRECTIONAL | F.INCREASE_RECEIVE_BUFFER
        )
        server, stranger = script.datagrams(SERVER_DATA), script.datagrams(Endpoint("192.0.2.7", 9))
        client = script.datagrams(OWN)
        server.send(b"one", connection.proxy_address)
        stranger.send(b"two", connection.proxy_address)
        ((data, source),) = client.take()
        assert data == b"one"
        client.send(b"reply", source)
        assert server.take() == [(b"reply", connection.proxy_address)]
        assert stranger.take() == []
        client.send(b"nobody", Endpoint(PROXY_INSIDE[4], 9))


def test_users_log_in_as_they_really_do(tmp_path: Path) -> None:
    file = tmp_path / "users"
    users.write(file, {"anna": PasswordHash.make(b"open-sesame", cost_log2=4)})
    kind, limits = ListenerKind.GATEWAY, Limits(max_failed_logins=2)
    with Script(ShoutFilter, kind=kind, users=str(file), limits=limits) as script:
        session = script.session
        assert session.must_log_in
        assert not script.run(session.log_in("anna", b"guess"))
        assert script.run(session.log_in("anna", b"open-sesame"))
        assert not session.must_log_in
        script.connect_client()
        assert not script.run(script.session.log_in("bert", b"open-sesame"))
        script.connect_client()
        assert not script.run(script.session.log_in("anna", b"open-sesame")), "has guessed twice"
        file.write_text("no user at all")
        script.advance(limits.failed_login_memory + 1)
        assert script.run(script.session.log_in("anna", b"open-sesame")), "the former ones hold"
        assert [line["event"] for line in script.log if line["level"] == "error"] == [
            "users not read, the former ones hold"
        ]
