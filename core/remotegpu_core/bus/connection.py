"""The Redis client: a real one when a URL is set, an in-process one otherwise."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fakeredis import FakeAsyncRedis, FakeServer
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from remotegpu_core.errors import InvalidInput

#: Seconds. A bus that answers slower than this is as good as away.
TIMEOUT = 5.0


#: Seconds that a question may take which somebody waits for, and for which none is asked after
#: one was not answered.
QUESTION_TIMEOUT = 1.0
REST = 2.0


class Breaker:
    """Keeps questions from a bus that did not answer the last one, for a moment."""

    def __init__(self) -> None:
        self._until = 0.0

    @contextlib.asynccontextmanager
    async def question(self) -> AsyncIterator[None]:
        """Around one question.

        Raises:
            RedisError, OSError: no answer came, or the bus is at rest.
        """
        if time.monotonic() < self._until:
            raise BusAtRest("The bus did not answer just now.")
        try:
            # Not the client's own timeout, see `in_time`.
            async with asyncio.timeout(QUESTION_TIMEOUT):
                yield
        except (RedisError, OSError):
            self._until = time.monotonic() + REST
            raise


class BusAtRest(OSError):
    """No question was asked."""


def in_time() -> asyncio.Timeout:
    """Around every wait for an answer: a TimeoutError, which is an OSError, when none comes.

    The client's own timeout would do the same with `asyncio.wait_for`, which on Python 3.11 may
    swallow a cancellation: a viewer who leaves, or a process that ends, would hang.
    """
    return asyncio.timeout(TIMEOUT)


def connect(url: str | None, ca_file: Path | None = None) -> Redis:
    """A client for `url`, not yet connected. `ca_file`: authorities beside the system's, for TLS.

    Raises:
        InvalidInput: not a redis:// URL.
    """
    if url is None:
        return FakeAsyncRedis(server=FakeServer(), socket_timeout=None)
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise InvalidInput("REMOTEGPU_REDIS_URL is a redis://, rediss:// or unix:// URL.")
    try:
        return Redis.from_url(
            url,
            socket_connect_timeout=TIMEOUT,
            # See `in_time`.
            socket_timeout=None,
            # Callers know best what to do without an answer; waiting inside the client would
            # only stop them from doing it.
            retry=Retry(NoBackoff(), 0),
            max_connections=64,
            **_trust(url, ca_file),
        )
    except (RedisError, ValueError, TypeError):
        # The reason that they give may repeat a password that was not escaped.
        raise InvalidInput(
            "REMOTEGPU_REDIS_URL cannot be used. Expected redis://:password@host:port/0, special "
            "characters of the password percent-encoded."
        ) from None


def _trust(url: str, ca_file: Path | None) -> dict[str, Any]:
    # redis-py loads them beside the system's; options in the URL come before these.
    if ca_file is None or not url.startswith("rediss:"):
        return {}
    return {"ssl_ca_certs": str(ca_file)}
