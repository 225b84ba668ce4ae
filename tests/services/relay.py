"""A port of loopback that leads to another server, with TLS in front of it where a test wants it."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

from tests.services.ports import LOOPBACK


@contextlib.asynccontextmanager
async def relay(to: Path | int, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """`to`: a unix socket, or a port of loopback."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(to, Path):
            inner_reader, inner_writer = await asyncio.open_unix_connection(to)
        else:
            inner_reader, inner_writer = await asyncio.open_connection(LOOPBACK, to)
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    async with await asyncio.start_server(serve, LOOPBACK, 0, ssl=tls) as server:
        yield server.sockets[0].getsockname()[1]
