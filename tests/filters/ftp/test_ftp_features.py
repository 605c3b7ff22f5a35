import pytest

from fwproxy_filters.ftp.features import FeatureEditor
from fwproxy_filters.ftp.replies import ReplyReader

VSFTPD = b"""\
211-Features:
 AUTH SSL
 AUTH TLS
 EPRT
 EPSV
 MDTM
 PASV
 PBSZ
 PROT
 REST STREAM
 SIZE
 TVFS
211 End
"""

PURE_FTPD = b"""\
211-Extensions supported:
 UTF8
 EPRT
 IDLE
 MDTM
 SIZE
 MFMT
 REST STREAM
 MLST type*;size*;sizd*;modify*;UNIX.mode*;UNIX.uid*;UNIX.gid*;unique*;
 MLSD
 PRET
 AUTH TLS
 PBSZ
 PROT
 TVFS
 ESTA
 PASV
 EPSV
 SPSV
211 End.
"""

PROFTPD = b"""\
211-Features:
 AUTH TLS
 CCC
 CLNT
 EPRT
 EPSV
 HASH CRC32;MD5;SHA-1;SHA-256*;SHA-512
 HOST
 LANG en-US.UTF-8*;en-US
 MDTM
 MFF modify;UNIX.group;UNIX.mode;
 MFMT
 MLST modify*;perm*;size*;type*;unique*;UNIX.group*;UNIX.mode*;UNIX.owner*;
 PBSZ
 PROT
 RANG STREAM
 REST STREAM
 SITE MKDIR
 SITE SYMLINK
 SIZE
 SSCN
 TVFS
 UTF8
211 End
"""

PYFTPDLIB = b"""\
211-Features supported:
 AUTH SSL
 AUTH TLS
 EPRT
 EPSV
 MDTM
 MFMT
 MLST type*;perm*;size*;modify*;unique*;unix.mode;unix.uid;unix.gid;
 PBSZ
 PROT
 REST STREAM
 SIZE
 TVFS
 UTF8
211 End FEAT.
"""

MICROSOFT = b"""\
211-Extended features supported:
 LANG EN*
 UTF8
 AUTH TLS;TLS-C;SSL;TLS-P;
 PBSZ
 PROT C;P;
 CCC
 HOST
 SIZE
 MDTM
 REST STREAM
211 END
"""

FILEZILLA = b"""\
211-Features:
 MDTM
 REST STREAM
 SIZE
 MODE Z
 MLST type*;size*;modify*;perm*;
 MLSD
 AUTH SSL
 AUTH TLS
 PROT
 PBSZ
 UTF8
 TVFS
 EPSV
 EPRT
 MFMT
211 End
"""

GLFTPD = b"""\
211- Extensions supported:
 AUTH TLS
 AUTH SSL
 PBSZ
 PROT
 CPSV
 SSCN
 MDTM
 SIZE
 REST STREAM
 SYST
 EPRT
 EPSV
211 End
"""

HYPHENATED = b"""\
211-Features
211-AUTH TLS
211-epsv
211- LPRT
211-SIZE

211 End
"""

SERV_U = b"""\
211-Extension supported
 CLNT
 LIST -laT
 MODE Z
 XCRC filename;start;end
 MDTM
 MDTM YYYYMMDDHHMMSS[+-TZ];filename
 SIZE
 REST STREAM
 COMB target;source_list
 auth tls
 LPRT
 LPSV
211 End (for details use "HELP commmand" where command is the command of interest)
"""

NONE = b"211 no-features\n"

SERVERS = {
    name: value
    for name, value in globals().items()
    if isinstance(value, bytes) and value.startswith(b"211")
}


def edited(reply, **options):
    """The lines left of a reply, without CRLF."""
    editor = FeatureEditor(**options)
    lines = [editor.edit(line) for line in ReplyReader().feed(reply.replace(b"\n", b"\r\n"))]
    return [line.raw.removesuffix(b"\r\n") for line in lines if line is not None]


def missing(reply, **options):
    """The names of the features that are left out."""
    left = edited(reply, **options)
    return [line.strip().decode() for line in reply.splitlines() if line not in left]


@pytest.mark.parametrize(
    ("reply", "left_out"),
    [
        (VSFTPD, ["AUTH SSL", "AUTH TLS", "PBSZ", "PROT"]),
        (PURE_FTPD, ["AUTH TLS", "PBSZ", "PROT", "SPSV"]),
        (PROFTPD, ["AUTH TLS", "CCC", "PBSZ", "PROT", "SSCN"]),
        (PYFTPDLIB, ["AUTH SSL", "AUTH TLS", "PBSZ", "PROT"]),
        (MICROSOFT, ["AUTH TLS;TLS-C;SSL;TLS-P;", "PBSZ", "PROT C;P;", "CCC"]),
        (FILEZILLA, ["AUTH SSL", "AUTH TLS", "PROT", "PBSZ"]),
        (GLFTPD, ["AUTH TLS", "AUTH SSL", "PBSZ", "PROT", "CPSV", "SSCN"]),
        (HYPHENATED, ["211-AUTH TLS", "211- LPRT"]),
        (SERV_U, ["auth tls", "LPRT", "LPSV"]),
        (NONE, []),
    ],
)
def test_what_cannot_work_is_left_out(reply, left_out):
    assert missing(reply) == left_out


def test_an_opaque_control_connection_keeps_its_security():
    assert missing(VSFTPD, security=True) == []
    assert missing(MICROSOFT, security=True) == []
    assert missing(PROFTPD, security=True) == []
    assert missing(GLFTPD, security=True) == ["CPSV"]
    assert missing(SERV_U, security=True) == ["LPRT", "LPSV"]


def test_extended_modes_can_be_hidden():
    assert missing(VSFTPD, security=True, extended=False) == ["EPRT", "EPSV"]
    assert missing(HYPHENATED, security=True, extended=False) == ["211-epsv", "211- LPRT"]


def test_writing_features_can_be_hidden():
    assert missing(PROFTPD, security=True, read_only=True) == [
        "MFF modify;UNIX.group;UNIX.mode;",
        "MFMT",
        "SITE MKDIR",
        "SITE SYMLINK",
    ]
    assert "COMB target;source_list" in missing(SERV_U, read_only=True)


@pytest.mark.parametrize("name", sorted(SERVERS))
@pytest.mark.parametrize("extended", [True, False])
@pytest.mark.parametrize("security", [True, False])
def test_the_frame_and_the_order_stay(name, security, extended):
    lines = SERVERS[name].splitlines()
    left = edited(SERVERS[name], security=security, extended=extended)
    assert (left[0], left[-1]) == (lines[0], lines[-1])
    rest = iter(lines)
    assert all(line in rest for line in left)


@pytest.mark.parametrize(
    ("feature", "kept"),
    [
        (b" AUTH TLS", False),
        (b"\tauth\ttls", False),
        (b" AUTH-SSL", False),
        (b" Auth GSSAPI", False),
        (b" ADAT", False),
        (b" MIC", False),
        (b" AUTHOR", True),
        (b" PROTECT", True),
        (b" MODE Z", True),
        (b" XNEW", True),
        (b"", True),
        (b" ;", True),
    ],
)
def test_features_are_known_by_their_first_word(feature, kept):
    assert FeatureEditor().is_kept(feature) is kept
