"""TCP connections to names with several addresses, which are raced as RFC 8305 says.

An address that takes no connection must not use up the whole time-out of whoever connects.
"""

import asyncio
import socket
from typing import Final

from aiohappyeyeballs import start_connection

#: Seconds that one address is ahead of the next: RFC 8305's Connection Attempt Delay.
HEAD_START: Final = 0.25


async def connect_socket(host: str, port: int, *, family: int = 0, flags: int = 0) -> socket.socket:
    """A socket, not blocking, that is connected to the first address of `host` that answers.

    Raises:
        OSError: the name does not resolve (socket.gaierror), or no address takes a connection.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=flags)
    return await start_connection(found, happy_eyeballs_delay=HEAD_START)
