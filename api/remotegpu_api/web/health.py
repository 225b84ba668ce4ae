"""Whether this process can serve."""

import asyncio

from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import JSONResponse

from remotegpu_api.state import state_of
from remotegpu_core.versions import DATABASE_ERRORS, read_versions


async def healthz(request: Request) -> JSONResponse:
    """200 when the database answers; a bus that is away is told, but degrades live data only."""
    plane = state_of(request).plane
    database = bus = "ok"
    try:
        async with asyncio.timeout(2):
            await read_versions()
    except (*DATABASE_ERRORS, TimeoutError):
        database = "away"
    try:
        async with asyncio.timeout(2):
            await plane.bus.redis.ping()
    except (RedisError, OSError, TimeoutError):
        bus = "away"
    status = 200 if database == "ok" else 503
    return JSONResponse({"database": database, "bus": bus}, status)
