"""What is said to set a data connection up, by the IP versions of both sides and the mode."""

from __future__ import annotations

from scripted import CLIENT_V4, CLIENT_V6, SERVER_V4, SERVER_V6, Script

from fwproxy import Endpoint

HOSTS = {"4": (CLIENT_V4, SERVER_V4), "6": (CLIENT_V6, SERVER_V6)}
ASKED = {
    "PORT": b"PORT 10,0,0,8,20,1",
    "EPRT4": b"EPRT |1|10.0.0.8|5121|",
    "EPRT6": b"EPRT |2|fd00::8|5121|",
    "PASV": b"PASV",
    "EPSV": b"EPSV",
}
CLIENT = {"4": Endpoint(CLIENT_V4, 5121), "6": Endpoint(CLIENT_V6, 5121)}
SERVER = {"4": Endpoint(SERVER_V4, 51201), "6": Endpoint(SERVER_V6, 51201)}

# What the server gets, by the IP versions of client and server, what the client asks and the mode.
SENT = {
    ("44", "PORT"): {"client": "PORT", "active": "PORT", "passive": "PASV"},
    ("44", "EPRT4"): {"client": "EPRT", "active": "EPRT", "passive": "PASV"},
    ("44", "PASV"): {"client": "PASV", "active": "PORT", "passive": "PASV"},
    ("44", "EPSV"): {"client": "EPSV", "active": "PORT", "passive": "EPSV"},
    ("46", "PORT"): {"client": "EPRT", "active": "EPRT", "passive": "EPSV"},
    ("46", "EPRT4"): {"client": "EPRT", "active": "EPRT", "passive": "EPSV"},
    ("46", "PASV"): {"client": "EPSV", "active": "EPRT", "passive": "EPSV"},
    ("46", "EPSV"): {"client": "EPSV", "active": "EPRT", "passive": "EPSV"},
    ("64", "EPRT6"): {"client": "PORT", "active": "PORT", "passive": "PASV"},
    ("64", "EPSV"): {"client": "PASV", "active": "PORT", "passive": "PASV"},
    ("66", "EPRT6"): {"client": "EPRT", "active": "EPRT", "passive": "EPSV"},
    ("66", "EPSV"): {"client": "EPSV", "active": "EPRT", "passive": "EPSV"},
}
SENT_LINE = {
    "PORT": b"PORT 198,51,100,1,156,64\r\n",
    "EPRT4": b"EPRT |1|198.51.100.1|40000|\r\n",
    "EPRT6": b"EPRT |2|2001:db8::99|40000|\r\n",
    "PASV": b"PASV\r\n",
    "EPSV": b"EPSV\r\n",
}
ANSWER = {
    "PORT": b"200 PORT fine\r\n",
    "EPRT": b"200 EPRT fine\r\n",
    "PASV": b"227 Entering Passive Mode (192,0,2,1,200,1).\r\n",
    "EPSV": b"229 Extended (|||51201|)\r\n",
}


def between(versions: str, **settings: object) -> Script:
    return Script(HOSTS[versions[0]][0], HOSTS[versions[1]][1], **settings)  # type: ignore[arg-type]


def told(asked: str, port: int) -> bytes:
    if asked == "PASV":
        return b"227 Entering Passive Mode (10,0,0,1,156,%d)\r\n" % (port - 39936)
    return b"229 Entering Extended Passive Mode (|||%d|)\r\n" % port
