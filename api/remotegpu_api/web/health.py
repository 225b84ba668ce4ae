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
        await asyncio.wait_for(read_versions(), 2)
    except (*DATABASE_ERRORS, TimeoutError):
        database = "away"
    try:
        await asyncio.wait_for(plane.bus.redis.ping(), 2)
    except (RedisError, OSError, TimeoutError):
        bus = "away"
    status = 200 if database == "ok" else 503
    return JSONResponse({"database": database, "bus": bus}, status)
