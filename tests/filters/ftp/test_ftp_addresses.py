import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwproxy.address import Endpoint
from fwproxy.errors import InvalidArgumentError
from fwproxy_filters.ftp import addresses
from fwproxy_filters.ftp.addresses import EpsvArgument
from fwproxy_filters.ftp.errors import FtpSyntaxError, ProtocolNotSupportedError

PORTS = st.integers(1, 65535)
V4 = st.builds(Endpoint, st.ip_addresses(v=4).map(str), PORTS)
V6 = st.builds(Endpoint, st.ip_addresses(v=6).map(str), PORTS)
DELIMITERS = st.integers(33, 126).map(lambda code: bytes([code]))

BAD_PORT = [
    b"",
    b" ",
    b"1,2,3,4,5",
    b"1,2,3,4,5,6,7",
    b"1,2,3,4,5,6,",
    b",1,2,3,4,5,6",
    b"1,2,3,,5,6",
    b"1,2,3,4,0,0",
    b"256,2,3,4,5,6",
    b"1,2,3,4,5,256",
    b"1,2,3,4,256,0",
    b"999,2,3,4,5,6",
    b"1000,2,3,4,5,6",
    b"4294967297,2,3,4,5,6",
    b"-1,2,3,4,5,6",
    b"+1,2,3,4,5,6",
    b"010,0,0,1,4,5",
    b"10,00,0,1,4,5",
    b"0x0a,0,0,1,4,5",
    b"1e1,0,0,1,4,5",
    b"10, 0,0,1,4,5",
    b"10,0,0,1,4 ,5",
    b"10.0.0.1,4,5",
    b"10,0,0,1,1029",
    b"10,0,0,1,4,5\0",
    b"10,0,0,1,4,5\r",
    b"10,0,0,1,4,5\n",
    b"10,0,0,1,4,5 x",
    b"(10,0,0,1,4,5)",
    b"\t10,0,0,1,4,5",
    b"1,2,3,4,5,\xd9\xa6",
    b"1_0,0,0,1,4,5",
    b"|1|10.0.0.1|80|",
    b"1," * 5000,
    b"9" * 5000,
]

BAD_EPRT = [
    b"",
    b" ",
    b"|",
    b"||||",
    b"|||||",
    b"|1|10.0.0.1|80",
    b"1|10.0.0.1|80|",
    b"|1|10.0.0.1|80||",
    b"|1|10.0.0.1|80|x",
    b"x|1|10.0.0.1|80|",
    b"|1|10.0.0.1|0|",
    b"|1|10.0.0.1|65536|",
    b"|1|10.0.0.1|99999|",
    b"|1|10.0.0.1|4294967376|",
    b"|1|10.0.0.1|-1|",
    b"|1|10.0.0.1|+80|",
    b"|1|10.0.0.1| 80|",
    b"|1|10.0.0.1|080|",
    b"|1|10.0.0.1|0x50|",
    b"|1|10.0.0.1||",
    b"|1||80|",
    b"|1|10.0.0|80|",
    b"|1|10.0.0.1.2|80|",
    b"|1|10.0.0.256|80|",
    b"|1|010.0.0.1|80|",
    b"|1|167772161|80|",
    b"|1|localhost|80|",
    b"|1|10,0,0,1|80|",
    b"|1| 10.0.0.1|80|",
    b"|1|10.0.0.1\0|80|",
    b"|1|2001:db8::1|80|",
    b"|2|10.0.0.1|80|",
    b"|2|2001:db8::1%eth0|80|",
    b"|2|[2001:db8::1]|80|",
    b"|2|2001:db8:::1|80|",
    b"|2|12345::|80|",
    b"|2|::" + b"0" * 5000 + b"|80|",
    b"||10.0.0.1|80|",
    b"|-1|10.0.0.1|80|",
    b"|1x|10.0.0.1|80|",
    b"\t1\t10.0.0.1\t80\t",
    b"\x801\x8010.0.0.1\x8080\x80",
    b"\x7f1\x7f10.0.0.1\x7f80\x7f",
    b"|1/10.0.0.1/80|",
]

BAD_227 = [
    b"",
    b"Entering Passive Mode",
    b"Entering Passive Mode (",
    b"Entering Passive Mode ()",
    b"Entering Passive Mode (1,2,3,4,5)",
    b"Entering Passive Mode (1,2,3,4,5,6,7)",
    b"Entering Passive Mode (1,2,3,4,5,6,)",
    b"Entering Passive Mode (1,2,3,4,5,6 ,)",
    b"Entering Passive Mode (,1,2,3,4,5,6)",
    b"Entering Passive Mode (, 1,2,3,4,5,6)",
    b"Entering Passive Mode (1,2,3,,4,5,6)",
    b"Entering Passive Mode (1,2,3,4,0,0)",
    b"Entering Passive Mode (1,2,3,4,0,256)",
    b"Entering Passiv Mode (1216,256,2,127,127,127)",
    b"Entering Passive Mode (256,2,3,4,5,6)",
    b"Entering Passive Mode (1,2,3,4,5,4294967302)",
    b"Entering Passive Mode (-1,2,3,4,5,6)",
    b"Entering Passive Mode (+1,2,3,4,5,6)",
    b"Entering Passive Mode (1,2,3,4,-5,6)",
    b"Entering Passive Mode (010,0,0,1,4,5)",
    b"Entering Passive Mode (10,0,0,1,04,5)",
    b"Entering Passive Mode (0x10,0,0,1,4,5)",
    b"Entering Passive Mode (10,0,0,1,4,5e3)",
    b"Entering Passive Mode (10,0,0,1,4,0x50)",
    b"Entering Passive Mode (9.10,0,0,1,4,5)",
    b"Entering Passive Mode (10,0,0,1,4,5.5)",
    b"Entering Passive Mode (10,0,0,1,4,5-9)",
    b"Entering Passive Mode (a10,0,0,1,4,5)",
    b"Entering Passive Mode (10,0,0,1,4,5b)",
    b"Entering Passive Mode (10.0.0.1,4,5)",
    b"Entering Passive Mode (10;0;0;1;4;5)",
    b"Entering Passive Mode (10\t,0,0,1,4,5)",
    b"Entering Passive Mode (10,0,0,1,4,5) (10,0,0,2,4,5)",
    b"Entering Passive Mode 10,0,0,1,4,5 10,0,0,1,4,5",
    b"Entering Passive Mode (10,0,0,1,4,5) 1,2,3,4,5,6,7",
    b"Entering Extended Passive Mode (|||6446|)",
    b"1," * 8000,
    b"1" * 16000,
]

BAD_229 = [
    b"",
    b"Entering Extended Passive Mode",
    b"()",
    b"(||||)",
    b"(|||0|)",
    b"(|||00|)",
    b"(|||080|)",
    b"(|||65536|)",
    b"(|||99999|)",
    b"(|||655350|)",
    b"(|||4294967376|)",
    b"(|||-1|)",
    b"(|||+80|)",
    b"(||| 80|)",
    b"(|||80 |)",
    b"(|||80)",
    b"(||80|)",
    b"(||||80|)",
    b"|||80|",
    b"(|||80|",
    b"(|||80||)",
    b"(|||80!)",
    b"(||!80|)",
    b"(|1|10.0.0.1|80|)",
    b"(||10.0.0.1|80|)",
    b"(|1||80|)",
    b"(|||0x50|)",
    b"(|||8a|)",
    b"(1111801)",
    b"(   80 )",
    b"(\x80\x80\x8080\x80)",
    b"(|||80|) (|||81|)",
    b"(|||80|)(|||80|)",
    b"Entering Passive Mode (10,0,0,1,4,5)",
    b"(" * 16000,
    b"(|||1" * 3000,
]


@pytest.mark.parametrize("argument", BAD_PORT, ids=lambda a: repr(a[:40]))
def test_malformed_port(argument):
    with pytest.raises(FtpSyntaxError) as caught:
        addresses.parse_port(argument)
    assert caught.value.reply_code == 501


@pytest.mark.parametrize("argument", BAD_EPRT, ids=lambda a: repr(a[:40]))
def test_malformed_eprt(argument):
    with pytest.raises(FtpSyntaxError) as caught:
        addresses.parse_eprt(argument)
    assert caught.value.reply_code == 501
    assert type(caught.value) is FtpSyntaxError


@pytest.mark.parametrize("text", BAD_227, ids=lambda a: repr(a[:60]))
def test_malformed_227(text):
    with pytest.raises(FtpSyntaxError) as caught:
        addresses.parse_227(text)
    assert caught.value.reply_code == 425


@pytest.mark.parametrize("text", BAD_229, ids=lambda a: repr(a[:40]))
def test_malformed_229(text):
    with pytest.raises(FtpSyntaxError) as caught:
        addresses.parse_229(text)
    assert caught.value.reply_code == 425


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"Entering Passive Mode (127,0,0,1,97,133).", "127.0.0.1:24965"),  # vsftpd
        (b"Entering passive mode (10,0,0,1,4,5).", "10.0.0.1:1029"),  # pyftpdlib
        (b"Entering Passive Mode (10,0,0,1,4,5)", "10.0.0.1:1029"),  # Pure-FTPd, IIS
        (b"Entering Passive Mode 10,0,0,1,4,5", "10.0.0.1:1029"),
        (b"10,0,0,1,4,5", "10.0.0.1:1029"),  # small servers
        (b"227 10,0,0,1,4,5", "10.0.0.1:1029"),  # with the code
        (b"=10,0,0,1,4,5", "10.0.0.1:1029"),  # publicfile
        (b"Entering Passive Mode( 10, 0, 0, 1, 4,5).", "10.0.0.1:1029"),
        (b"Passive Mode. 10 , 0 , 0 , 1 , 4 , 5 .", "10.0.0.1:1029"),
        (b"2 of 1,024 slots, mode (10,0,0,1,4,5)", "10.0.0.1:1029"),
        (b"(10,0,0,1,0,1)", "10.0.0.1:1"),
        (b"(255,255,255,255,255,255)", "255.255.255.255:65535"),
        (b"(0,0,0,0,4,5)", "0.0.0.0:1029"),  # what it stands for is not decided here
        (b"Entr\xe9e (10,0,0,1,4,5) \xff", "10.0.0.1:1029"),
    ],
)
def test_227_of_many_servers(text, expected):
    assert str(addresses.parse_227(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"Entering Extended Passive Mode (|||6446|)",
        b"Entering Extended Passive Mode (|||6446|).",  # Serv-U
        b"Extended Passive mode OK (|||6446|)",  # Pure-FTPd
        b"(EPSV) entering (!!!6446!) mode",
        b"229 (aaa6446a)",
        b"(22264462)",
    ],
)
def test_229_of_many_servers(text):
    assert addresses.parse_229(text) == 6446


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (b"|1|132.235.1.2|6275|", "132.235.1.2:6275"),  # the RFC's examples
        (b"|2|1080::8:800:200C:417A|5282|", "[1080::8:800:200c:417a]:5282"),
        (b" |1|10.0.0.1|80| ", "10.0.0.1:80"),
        (b"!1!10.0.0.1!80!", "10.0.0.1:80"),
        (b":1:10.0.0.1:80:", "10.0.0.1:80"),
        (b"~2~::~1~", "[::]:1"),
        (b"|2|0:0:0:0:0:0:0:1|65535|", "[::1]:65535"),
    ],
)
def test_eprt(argument, expected):
    assert str(addresses.parse_eprt(argument)) == expected


@pytest.mark.parametrize("family", [b"0", b"3", b"7", b"01", b"12", b"9" * 5000])
def test_eprt_with_another_protocol(family):
    with pytest.raises(ProtocolNotSupportedError) as caught:
        addresses.parse_eprt(b"|" + family + b"|x|y|")
    assert caught.value.reply == b"522 Network protocol not supported, use (1,2)\r\n"


def test_protocols_may_be_restricted():
    for parse in (
        lambda: addresses.parse_eprt(b"|2|::1|80|", (1,)),
        lambda: addresses.parse_epsv(b"2", (1,)),
    ):
        with pytest.raises(ProtocolNotSupportedError) as caught:
            parse()
        assert caught.value.reply == b"522 Network protocol not supported, use (1)\r\n"
    assert addresses.parse_eprt(b"|2|::1|80|", (2,)) == Endpoint("::1", 80)


@pytest.mark.parametrize(
    ("argument", "wanted"),
    [
        (None, EpsvArgument.ANY),
        (b"", EpsvArgument.ANY),
        (b" ", EpsvArgument.ANY),
        (b"1", EpsvArgument.IPV4),
        (b"2", EpsvArgument.IPV6),
        (b" 2 ", EpsvArgument.IPV6),
        (b"ALL", EpsvArgument.ALL),
        (b"all", EpsvArgument.ALL),
    ],
)
def test_epsv(argument, wanted):
    assert addresses.parse_epsv(argument) is wanted


@pytest.mark.parametrize(
    ("argument", "code"),
    [(b"0", 522), (b"3", 522), (b"11", 522), (b"-1", 501), (b"x", 501), (b"ALL 1", 501)],
)
def test_malformed_epsv(argument, code):
    with pytest.raises(FtpSyntaxError) as caught:
        addresses.parse_epsv(argument)
    assert caught.value.reply_code == code


@given(V4)
def test_port_and_227_round_trip(endpoint):
    assert addresses.parse_port(addresses.format_port(endpoint)) == endpoint
    assert addresses.parse_227(addresses.format_227(endpoint)) == endpoint
    assert addresses.parse_227(addresses.format_port(endpoint)) == endpoint


@given(st.one_of(V4, V6))
def test_eprt_round_trips(endpoint):
    assert addresses.parse_eprt(addresses.format_eprt(endpoint)) == endpoint


@given(PORTS)
def test_229_round_trips(port):
    assert addresses.parse_229(addresses.format_229(port)) == port


@given(st.one_of(V4, V6), DELIMITERS)
def test_eprt_takes_any_delimiter_that_is_not_in_its_fields(endpoint, delimiter):
    family = "1" if endpoint.version == 4 else "2"
    fields = [b"", family.encode(), endpoint.host.encode(), b"%d" % endpoint.port, b""]
    argument = delimiter.join(fields)
    if any(delimiter in field for field in fields):
        with pytest.raises(FtpSyntaxError):
            addresses.parse_eprt(argument)
    else:
        assert addresses.parse_eprt(argument) == endpoint


@given(PORTS, DELIMITERS)
def test_229_takes_any_delimiter_that_is_not_in_the_port(port, delimiter):
    text = b"Extended (" + delimiter * 3 + b"%d" % port + delimiter + b")"
    if delimiter in b"%d" % port:
        with pytest.raises(FtpSyntaxError):
            addresses.parse_229(text)
    else:
        assert addresses.parse_229(text) == port


NUMBERS = st.lists(st.integers(0, 300), min_size=4, max_size=8)


@given(NUMBERS)
def test_exactly_six_numbers_in_range_are_an_address(numbers):
    argument = ",".join(map(str, numbers)).encode()
    good = len(numbers) == 6 and max(numbers) < 256 and (numbers[4] or numbers[5])
    for parse in (addresses.parse_port, addresses.parse_227):
        if good:
            endpoint = parse(argument)
            assert endpoint.ip == ipaddress.IPv4Address(bytes(numbers[:4]))
            assert endpoint.port == numbers[4] * 256 + numbers[5]
        else:
            with pytest.raises(FtpSyntaxError):
                parse(argument)


@given(
    st.one_of(
        st.binary(), st.text(alphabet="0123456789,.()|:! -+x2aE\t").map(lambda text: text.encode())
    )
)
def test_anything_is_an_address_or_a_syntax_error(data):
    for parse in (addresses.parse_port, addresses.parse_eprt, addresses.parse_227):
        try:
            endpoint = parse(data)
        except FtpSyntaxError:
            continue
        assert Endpoint(endpoint.host, endpoint.port) == endpoint
        assert endpoint.port
    for number in (addresses.parse_229, addresses.parse_epsv):
        try:
            number(data)
        except FtpSyntaxError:
            continue


@pytest.mark.parametrize(
    "make",
    [
        lambda: addresses.format_port(Endpoint("10.0.0.1", 0)),
        lambda: addresses.format_port(Endpoint("::1", 80)),
        lambda: addresses.format_227(Endpoint("::1", 80)),
        lambda: addresses.format_227(Endpoint("10.0.0.1", 0)),
        lambda: addresses.format_eprt(Endpoint("::1", 0)),
        lambda: addresses.format_229(0),
        lambda: addresses.format_229(65536),
    ],
)
def test_what_cannot_be_said_is_not_formatted(make):
    with pytest.raises(InvalidArgumentError):
        make()


def test_formats():
    endpoint = Endpoint("10.0.0.8", 1553)
    assert addresses.format_port(endpoint) == b"10,0,0,8,6,17"
    assert addresses.format_227(endpoint) == b"Entering Passive Mode (10,0,0,8,6,17)"
    assert addresses.format_eprt(endpoint) == b"|1|10.0.0.8|1553|"
    assert addresses.format_eprt(Endpoint("2001:DB8::1", 21)) == b"|2|2001:db8::1|21|"
    assert addresses.format_229(6446) == b"Entering Extended Passive Mode (|||6446|)"
