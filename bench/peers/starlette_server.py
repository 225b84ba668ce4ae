"""The floor in Python: Starlette that sends ready text and ready dicts, no GraphQL at all."""

import asyncio
import os

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from bench.fleet import as_nodes, camel
from bench.peers.graph import format_time
from bench.peers.serve import serve
from bench.peers.source import Listener, healthz, lifespan_of
from remotegpu_core.bus.samples import Sample

listeners: set[Listener] = set()
sockets: set[WebSocket] = set()
waiting: asyncio.Queue[str] = asyncio.Queue()

#: What is answered to any query: a ready dict, encoded each time.
answer = {"data": {"machines": {"edges": [{"node": node} for node in as_nodes()]}}}

_HOST = ("cpu_utilization", "memory_used", "memory_total")
_GPU = (
    *("index", "uuid", "utilization", "memory_used"),
    *("memory_total", "temperature", "power", "sm_clock"),
)


def message(sample: Sample) -> str:
    """What GraphQL would answer, once for everybody; all of them call their operation `live`."""
    metrics = sample.metrics
    body = {
        "machineId": os.environ["BENCH_MACHINE"],
        "sampledAt": format_time(sample.sampled_at),
        "host": {camel(name): getattr(metrics.host, name) for name in _HOST},
        "gpus": [{camel(name): getattr(gpu, name) for name in _GPU} for gpu in metrics.gpus],
    }
    payload = {"data": {"machineMetrics": body}}
    return msgspec.json.encode({"id": "live", "type": "next", "payload": payload}).decode()


async def send_all() -> None:
    while True:
        text = await waiting.get()
        for socket in tuple(sockets):
            try:
                await socket.send_text(text)
            except WebSocketDisconnect:
                sockets.discard(socket)


async def live(socket: WebSocket) -> None:
    await socket.accept(subprotocol="graphql-transport-ws")
    try:
        await socket.receive_text()
        await socket.send_text('{"type":"connection_ack"}')
        await socket.receive_text()
        sockets.add(socket)
        while True:
            await socket.receive_text()
    except WebSocketDisconnect:
        pass
    finally:
        sockets.discard(socket)


async def query(_request: Request) -> JSONResponse:
    return JSONResponse(answer)


def main() -> None:
    listeners.add(lambda sample: waiting.put_nowait(message(sample)))
    serve(
        Starlette(
            lifespan=lifespan_of(listeners, send_all),
            routes=[
                healthz,
                Route("/graphql", query, methods=["POST"]),
                WebSocketRoute("/graphql", live),
            ],
        )
    )


if __name__ == "__main__":
    main()
