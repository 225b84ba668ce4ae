"""Samples from Redis, read once per process: what every peer in Python starts from."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from remotegpu_core.bus.samples import Sample, unpack_sample

Listener = Callable[[Sample], None]


async def listen(listeners: set[Listener]) -> None:
    """Give every sample of the channel in BENCH_CHANNEL to all listeners, for good."""
    redis = Redis.from_url(os.environ["BENCH_REDIS_URL"])
    pubsub = redis.pubsub(ignore_subscribe_messages=True)
    await pubsub.subscribe(os.environ["BENCH_CHANNEL"])
    async for message in pubsub.listen():
        sample = unpack_sample(message["data"])
        if sample is not None:
            for listener in tuple(listeners):
                listener(sample)


def lifespan_of(
    listeners: set[Listener], *others: Callable[[], Coroutine[None, None, None]]
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """A Starlette lifespan during which `listeners` are told and `others` run."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(work) for work in (listen(listeners), *(o() for o in others))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    return lifespan


async def _healthz(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


healthz = Route("/healthz", _healthz)
