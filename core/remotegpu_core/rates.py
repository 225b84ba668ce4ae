"""Rate limits: how many requests, and how much cost and processor time, each caller may have a
minute.

Every process counts for itself and decides at once. Several times a second it tells Redis what is
new and hears what the others counted, all callers in one round trip, so that replicas share a limit
to within that time; nobody ever waits for Redis, and without it every process goes on by itself.
"""

import asyncio
import contextlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from remotegpu_core.actor import Actor, ActorKind
from remotegpu_core.bus.keys import rate_key
from remotegpu_core.errors import RateLimited
from remotegpu_core.networks import caller_network
from remotegpu_core.settings import Settings
from remotegpu_core.tasks import end, keep_running

log = structlog.get_logger()

#: Seconds. What came in the window before still counts, less and less as the new one goes on.
WINDOW: Final = 60
#: Seconds between two exchanges, and after one that failed; seconds that one may take.
INTERVAL: Final = 0.25
RETRY_AFTER: Final = 2.0
TIMEOUT: Final = 1.0
#: Callers that are remembered, the latest, and of how many one exchange tells.
MAX_CALLERS: Final = 20_000
MAX_BATCH: Final = 512

_MICROSECONDS: Final = 1_000_000
#: What is counted, and what a limit of it is called.
_KINDS: Final = {
    "requests": "requests",
    "cost": "objects asked for (extensions.cost)",
    "time": "seconds of processor time for its requests",
}

# Adds what one process counted to a window, and answers with that window's totals and the last's.
_EXCHANGE: Final = """
local totals = {}
for position, kind in ipairs({'requests', 'cost', 'time'}) do
    totals[position] = redis.call('HINCRBY', KEYS[1], kind, ARGV[position])
end
redis.call('EXPIRE', KEYS[1], ARGV[4])
for position, last in ipairs(redis.call('HMGET', KEYS[2], 'requests', 'cost', 'time')) do
    totals[position + 3] = tonumber(last) or 0
end
return totals
"""


@dataclass(slots=True)
class Counts:
    """`time` is processor time in microseconds."""

    requests: int = 0
    cost: int = 0
    time: int = 0


@dataclass(slots=True)
class _Caller:
    """What is known of a caller in window number `window` and in the one before."""

    window: int
    now: Counts = field(default_factory=Counts)
    last: Counts = field(default_factory=Counts)
    #: Of `now`, what Redis was not told yet.
    untold: Counts = field(default_factory=Counts)

    def enter(self, window: int) -> None:
        if window == self.window:
            return
        self.last = self.now if window == self.window + 1 else Counts()
        self.window, self.now, self.untold = window, Counts(), Counts()


class Rates:
    """Limits of users (all their sessions and tokens together), and of addresses for the rest."""

    def __init__(
        self, settings: Settings, redis: Redis | None, *, clock: Callable[[], float] = time.time
    ) -> None:
        """`redis` is what other processes count in too; None where there are none."""
        self._settings = settings
        self._redis = redis
        self._clock = clock
        self._callers: OrderedDict[str, _Caller] = OrderedDict()
        self._untold: dict[str, _Caller] = {}
        self._task: asyncio.Task[None] | None = None
        self._away = False

    def start(self) -> None:
        if self._redis is not None:
            self._task = asyncio.create_task(keep_running("rates", self._tick), name="rates")

    async def stop(self) -> None:
        await end(self._task)
        self._task = None

    def request(self, actor: Actor) -> None:
        """Count a request.

        Raises:
            RateLimited: one too many, or the earlier ones took too much time; it was not counted.
        """
        self._check(actor, "time", 1)
        self._count(actor, "requests", 1)

    def spend(self, actor: Actor, cost: int) -> None:
        """Count what an operation costs.

        Raises:
            RateLimited: it would be too much; it was not counted.
        """
        self._count(actor, "cost", cost)

    @contextlib.contextmanager
    def timing(self, actor: Actor) -> Iterator[None]:
        """Charge the caller for the processor time of the block, which waits for nothing.

        It is known only afterwards, so it is the next `request` that is refused.
        """
        began = time.thread_time_ns()
        try:
            yield
        finally:
            self._add(actor, "time", (time.thread_time_ns() - began) // 1000)

    def remaining(self, actor: Actor) -> dict[str, int]:
        """Requests and cost that the caller may still have at this moment, where there are limits."""
        return {
            kind: max(0, limit - math.ceil(self._counted(actor, kind)))
            for kind in ("requests", "cost")
            if (limit := self._limit(actor, kind))
        }

    def _count(self, actor: Actor, kind: str, amount: int) -> None:
        self._check(actor, kind, amount)
        self._add(actor, kind, amount)

    def _check(self, actor: Actor, kind: str, amount: int) -> None:
        """Raises RateLimited when `amount` more would be too much."""
        limit = self._limit(actor, kind)
        if not limit or not amount or actor.kind is ActorKind.SYSTEM:
            return
        window, passed = divmod(self._clock(), WINDOW)
        caller = self._caller(_name(actor), int(window))
        now: int = getattr(caller.now, kind)
        last: int = getattr(caller.last, kind)
        if now + last * (1 - passed / WINDOW) + amount > limit:
            wait = _wait(now, last, limit - amount, passed)
            whose = "A user" if actor.is_signed_in else "An address without sign-in"
            what = "sign-ins" if actor.is_signing_in and kind == "requests" else _KINDS[kind]
            then = (
                f"Try again in {wait} s."
                if amount <= limit
                else f"This alone is {amount}: ask for less."
            )
            shown = limit // _MICROSECONDS if kind == "time" else limit
            raise RateLimited(
                f"{whose} has at most {shown} {what} a minute. {then}", retry_after=wait
            )

    def _add(self, actor: Actor, kind: str, amount: int) -> None:
        if not amount or not self._limit(actor, kind) or actor.kind is ActorKind.SYSTEM:
            return
        name = _name(actor)
        caller = self._caller(name, int(self._clock() // WINDOW))
        setattr(caller.now, kind, getattr(caller.now, kind) + amount)
        if self._task is not None:
            setattr(caller.untold, kind, getattr(caller.untold, kind) + amount)
            self._untold[name] = caller

    def _limit(self, actor: Actor, kind: str) -> int:
        """0 is none."""
        if actor.is_signing_in and kind == "requests":
            return self._settings.sign_in_rate_requests
        of_whom = "" if actor.is_signed_in else "anonymous_"
        limit: int = getattr(self._settings, f"{of_whom}rate_{kind}")
        return limit * _MICROSECONDS if kind == "time" else limit

    def _counted(self, actor: Actor, kind: str) -> float:
        """What counts at this moment."""
        window, passed = divmod(self._clock(), WINDOW)
        caller = self._caller(_name(actor), int(window))
        now: int = getattr(caller.now, kind)
        last: int = getattr(caller.last, kind)
        return now + last * (1 - passed / WINDOW)

    def _caller(self, name: str, window: int) -> _Caller:
        caller = self._callers.get(name)
        if caller is None:
            caller = self._callers[name] = _Caller(window)
            # Forget who has not been heard for long, and beyond a number who was not lately.
            oldest = next(iter(self._callers))
            if len(self._callers) > MAX_CALLERS or self._callers[oldest].window < window - 1:
                del self._callers[oldest]
                self._untold.pop(oldest, None)
        else:
            self._callers.move_to_end(name)
            caller.enter(window)
        return caller

    async def _tick(self) -> None:
        await asyncio.sleep(INTERVAL)
        if not self._untold:
            return
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._exchange()
        except (RedisError, OSError) as error:
            if not self._away:
                log.warning("rates.away", error=str(error), effect="each process limits by itself")
            self._away = True
            await asyncio.sleep(RETRY_AFTER)
        else:
            if self._away:
                log.info("rates.back")
            self._away = False

    async def _exchange(self) -> None:
        """Tell what is new and hear the totals.

        What is told is not told again when no answer comes: better too little than twice.
        """
        assert self._redis is not None  # noqa: S101 - nothing ticks without it
        window = int(self._clock() // WINDOW)
        told: list[_Caller] = []
        async with self._redis.pipeline(transaction=False) as pipeline:
            for name in tuple(self._untold)[:MAX_BATCH]:
                caller = self._untold.pop(name)
                if caller.window != window:
                    # It ended since; of its last moments the others do not hear.
                    continue
                told.append(caller)
                pipeline.eval(
                    _EXCHANGE,
                    2,
                    rate_key(name, window),
                    rate_key(name, window - 1),
                    str(caller.untold.requests),
                    str(caller.untold.cost),
                    str(caller.untold.time),
                    str(2 * WINDOW),
                )
                caller.untold = Counts()
            answers = cast("list[list[int]]", await pipeline.execute())
        for caller, totals in zip(told, answers, strict=True):
            if caller.window != window:
                continue
            # Never less than was seen here: Redis may have been away, or emptied.
            for kind, total, last in zip(_KINDS, totals[:3], totals[3:], strict=True):
                counted = total + getattr(caller.untold, kind)
                setattr(caller.now, kind, max(getattr(caller.now, kind), counted))
                setattr(caller.last, kind, max(getattr(caller.last, kind), last))


def _name(actor: Actor) -> str:
    if actor.user_id is not None:
        return f"user:{actor.user_id}"
    # What other anonymous requests of an address use up leaves sign-ins from it alone.
    kind = "sign-in" if actor.is_signing_in else "address"
    return f"{kind}:{caller_network(actor.source_address)}"


def _wait(now: int, last: int, room: int, passed: float) -> int:
    """Seconds, rounded up, until at most `room` of what was counted still counts."""
    left = WINDOW - passed
    if now <= room and last:
        # What came in the last window is forgotten bit by bit until there is room beside `now`.
        seconds = WINDOW * (1 - (room - now) / last) - passed
    elif room < 0:
        # Never; a minute is as good as any other answer.
        seconds = WINDOW
    else:
        seconds = left + WINDOW * (1 - room / now)
    return max(1, math.ceil(seconds))
