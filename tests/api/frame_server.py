"""An application on the server's websocket class, whose side of the socket the test holds."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import uvicorn

from remotegpu_api.frames import FrameWriter, frame_writer
from remotegpu_api.websocket_protocol import FrameProtocol
from tests.core.patience import until
from tests.services.ports import LOOPBACK

Message = dict[str, Any]


@dataclass(eq=False)
class Side:
    """The server's side of one accepted websocket. `received` are the texts that came, None for bytes."""

    protocol: FrameProtocol
    writer: FrameWriter
    send: Callable[[Message], Awaitable[None]]
    received: list[str | None]

    async def text(self, text: str) -> None:
        await self.send({"type": "websocket.send", "text": text})


class FrameServer:
    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self.sides: list[Side] = []
        self.port = 0
        #: Set where websockets may be accepted.
        self.accepts = asyncio.Event()
        self.accepts.set()
        self._asking = 0
        self._tls = tls

    @property
    def url(self) -> str:
        scheme, host = ("wss", "localhost") if self._tls else ("ws", LOOPBACK)
        return f"{scheme}://{host}:{self.port}"

    async def side(self) -> Side:
        """That of the websocket which came last."""
        await until(lambda: self.sides)
        return self.sides.pop()

    def accepts_are_asked_for(self) -> bool:
        return self._asking > 0

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        self._asking += 1
        await self.accepts.wait()
        self._asking -= 1
        writer = frame_writer(scope)
        assert writer is not None
        await send({"type": "websocket.accept"})
        side = Side(cast("FrameProtocol", writer._protocol), writer, send, [])
        self.sides.append(side)
        while (message := await receive())["type"] != "websocket.disconnect":
            side.received.append(message.get("text"))


@asynccontextmanager
async def serving_frames(
    tls: ssl.SSLContext | None = None, *, ping_interval: float = 20
) -> AsyncIterator[FrameServer]:
    frame_server = FrameServer(tls)
    config = uvicorn.Config(
        frame_server.application,
        ws=FrameProtocol,
        http="httptools",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        ws_per_message_deflate=False,
        ws_ping_interval=ping_interval,
        host=LOOPBACK,
        port=0,
        timeout_graceful_shutdown=1,
    )
    config.load()
    config.ssl = tls
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    frame_server.port = server.servers[0].sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    ticking = loop.create_task(server.main_loop())
    try:
        yield frame_server
    finally:
        server.should_exit = True
        await ticking
        await server.shutdown()
