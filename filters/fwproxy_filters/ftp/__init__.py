"""FTP: the control connection is read, the data connections are opened as its commands ask.

`filter` is what fwproxy loads; `control` edits the two streams with `setup` (PORT, PASV and their
sisters), `gateway` (logins such as `USER user@host`) and `channel` (the calls that open data
connections). The rest knows nothing of connections: `commands` over the table in `verbs`,
`login_forms`, `replies`, `addresses`, `features`, `telnet`, `pending`.
"""

from __future__ import annotations

from fwproxy_filters.ftp.filter import FtpFilter
from fwproxy_filters.ftp.settings import FtpSettings

__all__ = ["FtpFilter", "FtpSettings"]
