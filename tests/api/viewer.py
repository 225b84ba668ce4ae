"""A live viewer: graphql-transport-ws over a real websocket, and nothing hidden."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin, Subprotocol

from tests.api.plane import Json, Server

PROTOCOL = Subprotocol("graphql-transport-ws")

#: Seconds within which everything expected happens.
PATIENCE = 15.0


class Ended(Exception):
    """The operation is over: `kind` is complete, error or closed."""

    def __init__(self, kind: str, errors: list[Json] | None = None) -> None:
        super().__init__(kind, errors)
        self.kind = kind
        self.errors = errors or []


class Operation:
    """What came for one operation, in order."""

    def __init__(self, operation_id: str) -> None:
        self.id = operation_id
        self.frames: list[str] = []
        self.has_ended = False
        self._arrived: asyncio.Queue[Json | None] = asyncio.Queue()

    def put(self, message: Json | None, frame: str = "") -> None:
        self.frames.append(frame)
        self.has_ended = self.has_ended or message is None or message["type"] != "next"
        self._arrived.put_nowait(message)

    @property
    def waiting(self) -> int:
        return self._arrived.qsize()

    async def next(self, *, within: float = PATIENCE) -> Json:
        """The next event's payload.

        Raises:
            Ended: the operation ended instead.
        """
        async with asyncio.timeout(within):
            message = await self._arrived.get()
        if message is None:
            raise Ended("closed")
        if message["type"] == "next":
            payload: Json = message["payload"]
            return payload
        raise Ended(message["type"], message.get("payload"))

    async def data(self, *, within: float = PATIENCE) -> Json:
        payload = await self.next(within=within)
        assert "errors" not in payload, payload
        data: Json = payload["data"]
        return data

    async def end(self, *, within: float = PATIENCE) -> Ended:
        """How it ends, whatever comes before."""
        deadline = time.monotonic() + within
        while True:
            try:
                await self.next(within=max(0.01, deadline - time.monotonic()))
            except Ended as ended:
                return ended

    async def silent(self, seconds: float) -> None:
        """Fail when anything comes within `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                message = await self._arrived.get()
            raise AssertionError(f"expected silence, got {message}")


class Viewer:
    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket
        self.operations: dict[str, Operation] = {}
        self.pongs: asyncio.Queue[Json] = asyncio.Queue()
        self.acknowledgement: Json | None = None
        self._numbers = itertools.count(1)
        self._acknowledged = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def send(self, message: Any) -> None:
        await self.websocket.send(json.dumps(message))

    async def init(self, token: str | None = None) -> None:
        payload = {"token": token} if token is not None else {}
        await self.send({"type": "connection_init", "payload": payload})
        async with asyncio.timeout(PATIENCE):
            await self._acknowledged.wait()

    async def subscribe(
        self,
        query: str,
        variables: Mapping[str, Any] | None = None,
        *,
        operation: str | None = None,
        operation_id: str | None = None,
    ) -> Operation:
        payload: Json = {"query": query, "variables": variables or {}}
        if operation is not None:
            payload["operationName"] = operation
        return await self.send_payload(payload, operation_id=operation_id)

    async def send_payload(self, payload: Json, *, operation_id: str | None = None) -> Operation:
        """Subscribe with a payload as it stands."""
        chosen = operation_id or f"operation-{next(self._numbers)}"
        started = self.operations[chosen] = Operation(chosen)
        await self.send({"id": chosen, "type": "subscribe", "payload": payload})
        return started

    async def complete(self, operation: Operation) -> None:
        await self.send({"id": operation.id, "type": "complete"})

    async def closed(self, *, within: float = PATIENCE) -> tuple[int | None, str | None]:
        """Code and reason that the server closed with."""
        async with asyncio.timeout(within):
            await asyncio.shield(self._reader)
        return self.websocket.close_code, self.websocket.close_reason

    async def stop(self) -> None:
        await self.websocket.close()
        await self._reader

    async def _read(self) -> None:
        try:
            async for frame in self.websocket:
                assert isinstance(frame, str), "the server sends text"
                message = json.loads(frame)
                match message["type"]:
                    case "connection_ack":
                        self.acknowledgement = message
                        self._acknowledged.set()
                    case "pong":
                        self.pongs.put_nowait(message)
                    case _:
                        self.operations[message["id"]].put(message, frame)
        except ConnectionClosed:
            pass
        finally:
            for operation in self.operations.values():
                operation.put(None)


@asynccontextmanager
async def dialled(
    server: Server,
    *,
    origin: str | None = None,
    subprotocols: tuple[Subprotocol, ...] = (PROTOCOL,),
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[ClientConnection]:
    """A websocket at /graphql on which nothing was said."""
    async with connect(
        f"{server.websocket_url}/graphql",
        subprotocols=list(subprotocols) or None,
        origin=None if origin is None else Origin(origin),
        additional_headers=dict(headers or {}),
        compression=None,
        max_size=None,
        proxy=None,
        close_timeout=1,
    ) as websocket:
        yield websocket


@asynccontextmanager
async def viewing(
    server: Server, token: str | None = None, *, headers: Mapping[str, str] | None = None
) -> AsyncIterator[Viewer]:
    """A viewer whose connection is acknowledged."""
    async with dialled(server, headers=headers) as websocket:
        viewer = Viewer(websocket)
        try:
            await viewer.init(token)
            yield viewer
        finally:
            await viewer.stop()
