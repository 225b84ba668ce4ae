"""Rate limits: what just fits, one more, how long to wait, and what replicas have in common."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotegpu_core import rates as module
from remotegpu_core.actor import SYSTEM, Actor, ActorKind, Role, anonymous
from remotegpu_core.bus.connection import connect
from remotegpu_core.errors import RateLimited
from remotegpu_core.rates import MAX_CALLERS, WINDOW, Rates
from remotegpu_core.settings import Settings, load_settings
from tests.core.patience import until
from tests.services.redis import RedisServer

SETTINGS = load_settings(
    rate_requests=10, rate_cost=100, anonymous_rate_requests=4, anonymous_rate_cost=40
)


class Clock:
    """Seconds since the Unix epoch, as a test wants them; a window has just begun."""

    def __init__(self) -> None:
        self.now = 1_000_000 * WINDOW * 1.0

    def __call__(self) -> float:
        return self.now


def user() -> Actor:
    number = uuid.uuid4()
    return Actor(ActorKind.USER, id=number, user_id=number, role=Role.USER)


def alone(settings: Settings = SETTINGS) -> tuple[Rates, Clock]:
    clock = Clock()
    return Rates(settings, None, clock=clock), clock


def ask(rates: Rates, actor: Actor, times: int) -> None:
    for _ in range(times):
        rates.request(actor)


def refused(rates: Rates, actor: Actor) -> RateLimited:
    with pytest.raises(RateLimited) as told:
        rates.request(actor)
    return told.value


def test_as_many_requests_as_the_limit_and_not_one_more() -> None:
    rates, _ = alone()
    me, somebody, stranger = user(), user(), anonymous("192.0.2.1")
    ask(rates, me, 10)
    error = refused(rates, me)
    assert error.code == "RATE_LIMITED"
    assert error.message == "A user has at most 10 requests a minute. Try again in 66 s."
    # Others have limits of their own.
    ask(rates, somebody, 10)
    ask(rates, stranger, 4)
    refused(rates, stranger)
    ask(rates, anonymous("192.0.2.2"), 4)
    ask(rates, SYSTEM, 1000)


def test_cost_has_a_limit_of_its_own() -> None:
    rates, _ = alone()
    me = user()
    rates.spend(me, 60)
    rates.spend(me, 40)
    with pytest.raises(RateLimited):
        rates.spend(me, 1)
    # What costs nothing is never too much, and requests are counted apart.
    rates.spend(me, 0)
    ask(rates, me, 10)


NO_LIMITS = (
    *("rate_requests", "rate_cost", "rate_time"),
    *("anonymous_rate_requests", "anonymous_rate_time"),
)


def test_zero_is_no_limit() -> None:
    rates, _ = alone(load_settings(**dict.fromkeys(NO_LIMITS, 0)))
    for actor in (user(), anonymous("192.0.2.1")):
        ask(rates, actor, 100_000)
    rates.spend(user(), 10**12)
    assert len(rates._callers) == 0


def test_a_users_tokens_count_together_and_so_does_an_ipv6_network() -> None:
    rates, _ = alone()
    me = user()
    token = Actor(ActorKind.API_TOKEN, id=uuid.uuid4(), user_id=me.user_id, role=Role.USER)
    ask(rates, me, 5)
    ask(rates, token, 5)
    refused(rates, token)
    ask(rates, anonymous("2001:db8::1"), 2)
    ask(rates, anonymous("2001:db8::ffff:2"), 2)
    refused(rates, anonymous("2001:db8::3"))
    ask(rates, anonymous("2001:db8:0:1::1"), 4)
    # IPv4 as a socket of both families shows it, and callers whose addresses are not known.
    for one, same in (("::ffff:192.0.2.1", "192.0.2.1"), (None, "unknown"), ("x", "unknown")):
        rates, _ = alone()
        ask(rates, anonymous(one), 4)
        refused(rates, anonymous(same))


@given(
    st.lists(st.integers(0, 59), min_size=1, max_size=10),
    st.integers(0, 59),
)
def test_who_waits_as_long_as_told_may_go_on_and_no_sooner(
    moments: list[int], asked_after: int
) -> None:
    rates, clock = alone(load_settings(rate_requests=len(moments)))
    me, began = user(), clock.now
    for moment in sorted(moments):
        clock.now = began + moment
        rates.request(me)
    clock.now = max(clock.now, began + asked_after)
    refusal = refused(rates, me)
    assert 1 <= refusal.retry_after <= 2 * WINDOW
    clock.now += refusal.retry_after - 1.01
    refused(rates, me)
    clock.now += 1.01
    rates.request(me)


def test_no_minute_has_much_more_than_the_limit() -> None:
    """Not even one that lies across two windows, for whoever asks at a steady rate or in bursts."""
    rates, clock = alone()
    me = user()
    let_in: list[float] = []
    for _ in range(4000):
        clock.now += 0.1
        try:
            rates.request(me)
        except RateLimited:
            continue
        let_in.append(clock.now)
    for begin in let_in:
        assert sum(begin <= moment < begin + WINDOW for moment in let_in) <= 20
    assert len(let_in) <= 10 * (400 / WINDOW + 1)


def test_memory_is_bounded_and_the_silent_are_forgotten() -> None:
    rates, clock = alone()
    for number in range(MAX_CALLERS + 500):
        rates.request(anonymous(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"))
    assert len(rates._callers) == MAX_CALLERS
    clock.now += 3 * WINDOW
    for number in range(1000):
        rates.request(anonymous(f"11.0.{number >> 8}.{number & 255}"))
    # Each new one takes the place of one who has been silent.
    assert len(rates._callers) == MAX_CALLERS


@asynccontextmanager
async def replica(url: str, clock: Clock | None = None) -> AsyncIterator[Rates]:
    """One of several processes."""
    redis = connect(url)
    rates = Rates(SETTINGS, redis, clock=clock or time.time)
    rates.start()
    try:
        yield rates
    finally:
        await rates.stop()
        await redis.aclose()


def _spin(milliseconds: int) -> None:
    """Take so much of the processor."""
    ends = time.thread_time_ns() + milliseconds * 1_000_000
    while time.thread_time_ns() < ends:
        pass


def test_processor_time_is_charged_and_refuses_what_comes_after() -> None:
    rates, clock = alone(load_settings(anonymous_rate_time=1, rate_time=0))
    stranger = anonymous("192.0.2.1")
    name = "address:192.0.2.1"
    rates.request(stranger)
    with rates.timing(stranger):
        _spin(20)
    assert 20_000 <= rates._callers[name].now.time < 1_000_000
    rates.request(stranger)
    rates._callers[name].now.time = 1_000_000
    error = refused(rates, stranger)
    assert error.message.startswith(
        "An address without sign-in has at most 1 seconds of processor time for its requests a "
        "minute."
    )
    clock.now += error.retry_after
    rates.request(stranger)
    # Where there is no limit nothing is kept, and others have limits of their own.
    me = user()
    with rates.timing(me):
        _spin(1)
    assert f"user:{me.user_id}" not in rates._callers
    rates.request(anonymous("192.0.2.2"))


def test_what_remains() -> None:
    rates, clock = alone()
    me = user()
    assert rates.remaining(me) == {"requests": 10, "cost": 100}
    ask(rates, me, 3)
    rates.spend(me, 60)
    assert rates.remaining(me) == {"requests": 7, "cost": 40}
    clock.now += 1.5 * WINDOW
    # Half of it counts still.
    assert rates.remaining(me) == {"requests": 8, "cost": 70}
    unlimited, _ = alone(load_settings(rate_requests=0, rate_cost=5))
    assert unlimited.remaining(me) == {"cost": 5}


async def test_replicas_share_a_limit(redis_url: str) -> None:
    clock, me = Clock(), user()
    async with replica(redis_url, clock) as one, replica(redis_url, clock) as two:
        ask(one, me, 6)
        one.spend(me, 60)
        with one.timing(me):
            _spin(1)
        await until(lambda: not one._untold)
        ask(two, me, 1)
        name = f"user:{me.user_id}"
        await until(lambda: two._callers[name].now.requests == 7)
        assert two._callers[name].now.time == one._callers[name].now.time >= 1000
        ask(two, me, 3)
        refused(two, me)
        with pytest.raises(RateLimited):
            two.spend(me, 41)
        # And in the next window too, for one that hears of the caller only then.
        await until(lambda: not two._untold)
        async with replica(redis_url, clock) as three:
            clock.now += WINDOW
            ask(three, me, 1)
            await until(lambda: three._callers[name].last.requests == 10)
            refused(three, me)


async def test_it_expires(redis_url: str) -> None:
    async with replica(redis_url) as rates:
        rates.request(user())
        await until(lambda: not rates._untold)
        await asyncio.sleep(0.1)
        assert rates._redis is not None
        (key,) = await rates._redis.keys("rg:rate:*")
        assert 0 < await rates._redis.ttl(key) <= 2 * WINDOW


async def test_nobody_waits_for_redis_and_everybody_is_limited_without_it(
    private_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    monkeypatch.setattr(module, "RETRY_AFTER", 0.1)
    clock, me = Clock(), user()
    async with replica(private_redis.url, clock) as rates:
        ask(rates, me, 2)
        await until(lambda: not rates._untold)
        private_redis.pause()
        ask(rates, me, 3)
        await until(lambda: rates._away)
        ask(rates, me, 5)
        refused(rates, me)
        private_redis.resume()
        await until(lambda: not rates._away)
        private_redis.kill()
        clock.now += 10 * WINDOW
        ask(rates, me, 10)
        refused(rates, me)
        await until(lambda: rates._away)
        private_redis.start()
        # Emptied, it knows less than is known here.
        rates.spend(me, 1)
        await until(lambda: not rates._away)
        refused(rates, me)


async def test_without_others_nothing_is_exchanged() -> None:
    rates, _ = alone()
    rates.start()
    assert rates._task is None
    rates.request(user())
    assert not rates._untold
    await rates.stop()
