"""Whether this process lives, and whether it can serve."""

import asyncio

import structlog
from redis.exceptions import RedisError, ResponseError
from starlette.requests import Request
from starlette.responses import JSONResponse

from remotegpu_api.state import state_of
from remotegpu_core.database.failures import DATABASE_ERRORS, DatabaseUnavailable
from remotegpu_core.versions import read_versions

log = structlog.get_logger()


async def database_away(_request: Request, error: Exception) -> JSONResponse:
    """The answer to a request that needed a database which is away, in the shape of the graph's."""
    log.warning("http.database_away", error=str(error))
    told = {
        "message": error.message
        if isinstance(error, DatabaseUnavailable)
        else "The database is away: try again in a few seconds.",
        "extensions": {"code": "UNAVAILABLE"},
    }
    return JSONResponse({"errors": [told]}, 503, {"Retry-After": "2", "Cache-Control": "no-store"})


async def livez(_request: Request) -> JSONResponse:
    """200 for as long as this process answers at all: what a load balancer asks.

    A database that is away for a while is no reason to leave it: links and streams go on.
    """
    return JSONResponse({"process": "ok"})


async def healthz(request: Request) -> JSONResponse:
    """200 when the database answers and takes changes.

    A bus that is away, or keeps nothing, is told, but degrades live data only.
    """
    plane = state_of(request).plane
    database: str = plane.database.health.trouble or "ok"
    bus = "ok" if plane.bus.trouble is None else "refuses-writes"
    try:
        async with asyncio.timeout(2):
            await read_versions()
    except (*DATABASE_ERRORS, TimeoutError):
        database = "away"
    try:
        async with asyncio.timeout(2):
            await plane.bus.redis.ping()
    except ResponseError:
        bus = "refuses-writes"
    except (RedisError, OSError, TimeoutError):
        bus = "away"
    status = 200 if database == "ok" else 503
    return JSONResponse({"database": database, "bus": bus}, status)
