from ftp_ends import *


async def test_one():
    async with open_ftp() as w:
        c = await w.login()
        assert await w.fetch(c) == FILE
        assert await w.fetch(c, "EPSV") == FILE
        l = w.add(Listening())
        assert await c.code(l.port_command) == 200
        await c.send(b"RETR f\r\n")
        d = await l.accept()
        assert await d.read_all() == FILE
        assert await c.codes(2) == [150, 226]
        assert await c.code("QUIT") == 221
