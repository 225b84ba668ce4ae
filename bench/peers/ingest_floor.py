"""The floor of ingest in Python: nothing decoded, commands written by hand, a batch a loop turn."""

import asyncio
import itertools
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from bench.peers.serve import serve
from bench.peers.source import healthz

_LIFETIME_MS: Final = b"120000"
_STAMP: Final = struct.pack(">QQ", 1, 1)
_READ: Final = 65536
_numbers = itertools.count()


def command(*parts: bytes) -> bytes:
    """In Redis's protocol."""
    head = b"*%d\r\n" % len(parts)
    return head + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


class Batches:
    """Commands that gather in one turn of the loop leave in one write."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._commands: list[bytes] = []

    async def send(self, *commands: bytes) -> None:
        if not self._commands:
            asyncio.get_running_loop().call_soon(self._flush)
        self._commands += commands
        # Where Redis does not keep up, senders wait instead of filling memory.
        if self._writer.transport.get_write_buffer_size() > _READ:
            await self._writer.drain()

    def _flush(self) -> None:
        commands, self._commands = self._commands, []
        self._writer.write(b"".join(commands))


async def agent(socket: WebSocket) -> None:
    await socket.accept(subprotocol="remotegpu.agent.v1")
    machine = b"bench-%d" % next(_numbers)
    key, channel = b"rg:latest:" + machine, b"rg:sample:" + machine
    batches: Batches = socket.app.state.batches
    try:
        while True:
            sample = _STAMP + await socket.receive_bytes()
            await batches.send(
                command(b"SET", key, sample, b"PX", _LIFETIME_MS),
                command(b"PUBLISH", channel, sample),
            )
    except WebSocketDisconnect:
        pass


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    url = urlsplit(os.environ["BENCH_REDIS_URL"])
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    app.state.batches = Batches(writer)
    answers = asyncio.create_task(discard(reader))
    try:
        yield
    finally:
        answers.cancel()
        writer.close()


async def discard(reader: asyncio.StreamReader) -> None:
    while await reader.read(_READ):
        pass


def main() -> None:
    serve(Starlette(lifespan=lifespan, routes=[healthz, WebSocketRoute("/agent", agent)]))


if __name__ == "__main__":
    main()
