"""One subscriber connection for the whole process, shared by everybody who listens."""

import asyncio
import contextlib
from collections.abc import Callable

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from remotegpu_core.bus.connection import in_time
from remotegpu_core.bus.keys import NUDGE
from remotegpu_core.tasks import end

log = structlog.get_logger()

Callback = Callable[[bytes], None]

#: Seconds without a message after which the server is asked whether it is there, and within which
#: it has to answer.
QUIET = 5.0


class Listener:
    """Channels with their callbacks, each channel subscribed once, resubscribed after a loss.

    Callbacks run on the reader's task and do not block; what they raise is logged.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._callbacks: dict[str, list[Callback]] = {}
        self._pubsub: PubSub | None = None
        self._task: asyncio.Task[None] | None = None
        self._gaps: list[Callable[[], None]] = []

    async def start(self) -> None:
        """Subscribe and begin to read; with Redis away it goes on trying in the background."""
        # Something is always subscribed: a subscriber without a channel cannot wait.
        self._callbacks.setdefault(NUDGE, [])
        with contextlib.suppress(RedisError, OSError):
            await self._connect()
        self._task = asyncio.create_task(self._run(), name="bus-listener")

    async def stop(self) -> None:
        await end(self._task)
        self._task = None
        await self._disconnect()

    @property
    def channels(self) -> frozenset[str]:
        return frozenset(self._callbacks)

    def on_gap(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when messages may have been missed."""
        self._gaps.append(callback)

    async def subscribe(self, channel: str, callback: Callback) -> None:
        callbacks = self._callbacks.setdefault(channel, [])
        callbacks.append(callback)
        if len(callbacks) == 1 and self._pubsub is not None:
            # A failure here fails the reader too, which subscribes to everything anew.
            with contextlib.suppress(RedisError, OSError):
                async with in_time():
                    await self._pubsub.subscribe(channel)

    async def unsubscribe(self, channel: str, callback: Callback) -> None:
        callbacks = self._callbacks.get(channel, [])
        if callback in callbacks:
            callbacks.remove(callback)
        if not callbacks and channel in self._callbacks and channel != NUDGE:
            del self._callbacks[channel]
            if self._pubsub is not None:
                with contextlib.suppress(RedisError, OSError):
                    async with in_time():
                        await self._pubsub.unsubscribe(channel)

    async def _run(self) -> None:
        delay = 0.1
        away = False
        while True:
            try:
                if self._pubsub is None:
                    await self._connect()
                    log.info("bus.listening", channels=len(self._callbacks))
                    for gap in self._gaps:
                        gap()
                delay, away = 0.1, False
                await self._read()
            except (RedisError, OSError) as error:
                if not away:
                    log.warning("bus.listener_lost", error=str(error))
                away = True
                await self._disconnect()
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2.0)

    async def _connect(self) -> None:
        pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
        asked = set(self._callbacks)
        try:
            async with in_time():
                await pubsub.subscribe(*asked)
        except BaseException:
            await pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
            raise
        self._pubsub = pubsub
        # Channels that came and went while the answer was on its way.
        async with in_time():
            if late := set(self._callbacks) - asked:
                await pubsub.subscribe(*late)
            if gone := asked - set(self._callbacks):
                await pubsub.unsubscribe(*gone)

    async def _disconnect(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            with contextlib.suppress(RedisError, OSError):
                await pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        heard_at, asked = loop.time(), False
        while (pubsub := self._pubsub) is not None:
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=QUIET)
            if message is not None:
                heard_at, asked = loop.time(), False
                if message["type"] == "message":
                    self._deliver(message["channel"].decode(), message["data"])
            elif loop.time() - heard_at >= QUIET:
                # Nothing was said, or the other end vanished without a word.
                if asked:
                    raise TimeoutError(f"no answer within {QUIET:.0f} s")
                async with in_time():
                    await pubsub.ping()
                heard_at, asked = loop.time(), True

    def _deliver(self, channel: str, data: bytes) -> None:
        for callback in tuple(self._callbacks.get(channel, ())):
            try:
                callback(data)
            except Exception:
                # One follower's bug must not deafen the process.
                log.exception("bus.callback_failed", channel=channel)
