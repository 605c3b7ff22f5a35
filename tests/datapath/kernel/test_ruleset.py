"""What rulesets of others may do to forwarded connections, as nft prints them."""

from __future__ import annotations

import pytest

from fwproxy.datapath.kernel.ruleset import chains, obstacles

MARK = 0x6677
FIREWALLD = """\
table inet firewalld { # progname firewalld
	flags owner

	ct helper helper-ftp-tcp {
		type "ftp" protocol tcp
		l3proto inet
	}

	chain mangle_PREROUTING {
		type filter hook prerouting priority mangle + 10; policy accept;
		jump mangle_PREROUTING_ZONES
	}

	chain mangle_PREROUTING_ZONES {
		return
	}

	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		jump filter_FORWARD_ZONES
		reject with icmpx admin-prohibited
	}

	chain filter_FORWARD_ZONES {
		iifname "eth0" goto filter_FWD_public
	}

	chain filter_FWD_public {
		return
	}
}
"""
DOCKER = """\
# Warning: table ip filter is managed by iptables-nft, do not touch!
table ip filter {
	chain DOCKER-USER {
		counter packets 0 bytes 0 return
	}

	chain FORWARD {
		type filter hook forward priority filter; policy drop;
		counter packets 12 bytes 720 jump DOCKER-USER
	}
}
table ip nat {
	chain DOCKER {
		iifname "docker0" counter packets 0 bytes 0 return
	}

	chain PREROUTING {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local counter packets 1 bytes 60 jump DOCKER
	}

	chain POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
		oifname != "docker0" ip saddr 172.17.0.0/16 counter packets 0 bytes 0 masquerade
	}
}
"""
PLAIN = """\
table ip nat {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		oifname "wan0" xt target "MASQUERADE"
	}

	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		tcp dport 21 redirect to :7000
	}
}
table inet counting {
	chain forward {
		type filter hook forward priority -150; policy accept;
		log prefix "reject, drop, CT: "
		counter packets 1 bytes 2 comment "drop"
		jump counted
	}

	chain counted {
		ip saddr { 192.0.2.1, 192.0.2.2,
				192.0.2.3 } accept
	}
}
table bridge lan {
	chain forward {
		type filter hook forward priority filter; policy drop;
	}
}
table netdev early {
	chain ingress {
		type filter hook ingress device "eth0" priority 0; policy accept;
		ip saddr 192.0.2.66 drop
	}
}
table inet fwproxy_4026531836_17_1234_1 { # progname python3
	flags owner

	chain guard {
		type filter hook prerouting priority mangle; policy accept;
		ct mark 0x00006677 ct direction reply meta l4proto udp drop
	}

	chain forward {
		type filter hook forward priority filter; policy drop;
		ct mark set 0x00000001
	}
}
"""


def said(ruleset: str) -> list[str]:
    return list(obstacles(ruleset, MARK))


def chain(*rules: str, hook: str = "forward", priority: str = "filter") -> str:
    lines = [f"type filter hook {hook} priority {priority}; policy accept;", *rules]
    text = "".join(f"\t\t{line}\n" for line in lines)
    return f"table ip t {{\n\tchain c {{\n{text}\t}}\n}}\n"


@pytest.mark.parametrize(
    ("ruleset", "name"),
    [(FIREWALLD, "inet firewalld filter_FORWARD"), (DOCKER, "ip filter FORWARD")],
)
def test_usual_firewalls_may_drop_what_is_forwarded(ruleset: str, name: str) -> None:
    (obstacle,) = said(ruleset)
    assert obstacle.startswith(f"the chain {name} may drop what is forwarded")


def test_a_plain_gateway_is_no_obstacle() -> None:
    assert said(PLAIN) == []
    assert said("") == []
    assert [str(each) for each in chains(PLAIN)][-1] == "inet counting counted"


@pytest.mark.parametrize(
    "rule",
    [
        "tcp dport 25 drop",
        "reject with tcp reset",
        "queue num 4",
        "ct state vmap { established : accept, invalid : drop }",
        "ip saddr vmap @verdicts",
        "jump elsewhere",
        "tcp dport vmap { 25 : goto elsewhere }",
        "counter packets 0 bytes 0 # REJECT with icmp-port-unreachable",
        "192.0.2.3 } drop",
        "ct mark 0x00006677 drop",
        'iifname "a" ct mark 0x00006677 accept\n\t\tdrop',
        "ct mark 0x00006678 accept\n\t\tdrop",
    ],
)
def test_what_may_drop(rule: str) -> None:
    assert len(said(chain(rule))) == 1
    assert "may drop what is forwarded" in said(chain(rule))[0]


@pytest.mark.parametrize(
    "rule",
    [
        "accept",
        'log prefix "drop "',
        "meta mark set ct mark",
        "ct mark 0x00006677 accept\n\t\tdrop",
        "ct mark 0x00006677 counter packets 1 bytes 60 accept\n\t\tdrop",
        'xt target "TCPMSS"',
        "ct original ip saddr 192.0.2.1 meta mark set 0x00000001",
    ],
)
def test_what_may_not(rule: str) -> None:
    assert said(chain(rule)) == []


@pytest.mark.parametrize(
    "rule",
    [
        "ct mark set meta mark",
        "meta l4proto tcp ct zone set 0x1",
        "ct event set new,destroy",
        "notrack",
        "flow add @fast",
        'xt target "CONNMARK"',
        "counter packets 0 bytes 0 CONNMARK save",
    ],
)
@pytest.mark.parametrize("hook", ["prerouting", "input", "postrouting"])
def test_what_meddles_with_conntrack(rule: str, hook: str) -> None:
    (obstacle,) = said(chain(rule, hook=hook, priority="mangle"))
    assert "the chain ip t c may change what conntrack knows" in obstacle


@pytest.mark.parametrize(
    ("hook", "priority", "is_in_the_way"),
    [
        ("prerouting", "raw", False),
        ("prerouting", "mangle + 10", False),
        ("prerouting", "-102", False),
        ("prerouting", "dstnat - 1", True),
        ("prerouting", "filter", True),
        ("postrouting", "-300", True),
        ("input", "filter", True),
        ("output", "raw", True),
        ("ingress", "filter", False),
    ],
)
def test_where_it_matters(hook: str, priority: str, *, is_in_the_way: bool) -> None:
    assert bool(said(chain("ip saddr 192.0.2.1 drop", hook=hook, priority=priority))) is (
        is_in_the_way
    )


def test_chains_that_ask_each_other_are_looked_at_once() -> None:
    ruleset = (
        chain("jump d")
        + "table ip t {\n\tchain d {\n\t\tjump e\n\t}\n\tchain e {\n\t\tjump d\n\t}\n}\n"
    )
    assert said(ruleset) == []
