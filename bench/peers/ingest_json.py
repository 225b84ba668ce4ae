"""Ingest as one would first write it: JSON, and two awaited commands to Redis a sample."""

import itertools
import json
import os
import struct
from typing import Final

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from bench.peers.serve import serve
from bench.peers.source import healthz

_LIFETIME_MS: Final = 120_000
_numbers = itertools.count()


async def agent(socket: WebSocket) -> None:
    await socket.accept(subprotocol="remotegpu.agent.v1")
    machine = f"bench-{next(_numbers)}"
    redis: Redis = socket.app.state.redis
    try:
        while True:
            text = await socket.receive_text()
            metrics = json.loads(text)
            sample = struct.pack(">QQ", 1, metrics["sampled_at"]) + text.encode()
            await redis.set(f"rg:latest:{machine}", sample, px=_LIFETIME_MS)
            await redis.publish(f"rg:sample:{machine}", sample)
    except WebSocketDisconnect:
        pass


def main() -> None:
    app = Starlette(routes=[healthz, WebSocketRoute("/agent", agent)])
    app.state.redis = Redis.from_url(os.environ["BENCH_REDIS_URL"])
    serve(app)


if __name__ == "__main__":
    main()
