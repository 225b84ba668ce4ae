"""A way to the control plane that a test can lead elsewhere, and cut."""

import asyncio
import contextlib
from collections.abc import Callable

from tests.services.ports import LOOPBACK, unused_port


class Detour:
    """Listens on a port of its own and passes every connection on to `target`, another port."""

    def __init__(self, target: int) -> None:
        self.port = unused_port()
        self.target = target
        #: Whether what the host says gets stuck on its way, and what is said to it; until the cut.
        self.mute = False
        self.deaf = False
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, LOOPBACK, self.port)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    def cut(self) -> None:
        """Without a word to either side: what was stuck is lost."""
        self.mute = self.deaf = False
        for pipe in tuple(self._pipes):
            pipe.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pipes.add(task)
        writers = [writer]
        try:
            there, back = await asyncio.open_connection(LOOPBACK, self.target)
            writers.append(back)
            await asyncio.gather(
                _pump(reader, back, lambda: self.mute), _pump(there, writer, lambda: self.deaf)
            )
        except (OSError, asyncio.CancelledError):
            # Nobody there, or cut.
            pass
        finally:
            self._pipes.discard(task)
            for end in writers:
                end.transport.abort()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stuck: Callable[[], bool]
) -> None:
    while data := await reader.read(65536):
        while stuck():  # noqa: ASYNC110 - looked at seldom, and set by plain code
            await asyncio.sleep(0.01)
        writer.write(data)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
    raise ConnectionResetError
