"""A fleet that comes back at once is greeted some at a time, and the rest is told when to come."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from remotegpu_api.gateway.connection import AgentConnection
from remotegpu_api.gateway.greetings import AT_ONCE, MAX_GREETINGS, MAX_OF_NETWORK, Greetings
from remotegpu_core.models import Machine
from remotegpu_protocol.errors import Overloaded
from remotegpu_protocol.limits import MAX_RETRY_AFTER, MAX_RETRY_SPREAD
from tests.api.host import Link, enrolled, socket
from tests.api.plane import Server
from tests.core.patience import until


@contextlib.contextmanager
def taken(greetings: Greetings, *networks: object) -> Iterator[None]:
    with contextlib.ExitStack() as places:
        for network in networks:
            places.enter_context(greetings.take(network))
        yield


def sent_away(greetings: Greetings) -> float:
    with pytest.raises(Overloaded) as refused, greetings.take("another"):
        pass
    assert refused.value.retry_after is not None
    return refused.value.retry_after


def test_each_that_is_sent_away_has_a_moment_of_its_own() -> None:
    greetings = Greetings(now=lambda: 1000.0)
    with taken(greetings, *range(MAX_GREETINGS)):
        hints = [sent_away(greetings) for _ in range(30_000)]
    assert hints[0] >= 1.0
    assert hints[:1000] == sorted(set(hints[:1000]))
    assert max(hints) == MAX_RETRY_AFTER
    # About as many come back in a second as are greeted in one.
    assert 300 <= sum(10.0 < hint <= 11.0 for hint in hints) <= 500


def test_a_place_is_given_back() -> None:
    greetings = Greetings()
    with greetings.take("network"):
        assert greetings.in_progress == 1
    assert greetings.in_progress == 0


def test_one_network_leaves_room_for_others() -> None:
    greetings = Greetings()
    with taken(greetings, *["silent"] * MAX_OF_NETWORK):
        with pytest.raises(Overloaded), greetings.take("silent"):
            pass
        with greetings.take("another"):
            pass


async def test_the_moments_follow_how_long_greetings_take() -> None:
    clock = 1000.0
    greetings = Greetings(now=lambda: clock)
    before = greetings.spread(1000)

    async def slow() -> None:
        nonlocal clock
        async with greetings.turn():
            await asyncio.sleep(0)
            clock += 0.05

    async with asyncio.timeout(20):
        await asyncio.gather(*(slow() for _ in range(20 * AT_ONCE)))
    assert greetings.spread(1000) > 2 * before
    assert greetings.spread(10**9) == MAX_RETRY_SPREAD
    # What ends long after the one before tells nothing: nobody waited.
    measured = greetings.spread(1000)
    clock += 3600
    await slow()
    assert greetings.spread(1000) == measured


async def test_no_more_are_worked_on_at_a_time() -> None:
    greetings, now, most = Greetings(), 0, 0

    async def one() -> None:
        nonlocal now, most
        async with greetings.turn():
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1

    await asyncio.gather(*(one() for _ in range(100)))
    assert most == AT_ONCE


async def test_an_agent_that_has_gone_is_not_greeted(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dialled again meanwhile: to greet the dead socket would take the turn of a living one."""
    host = await enrolled(server, await server.sign_in(), "gpu-01")
    handle, came = AgentConnection._handle, list[AgentConnection]()

    async def handled(connection: AgentConnection, *arguments: object) -> None:
        came.append(connection)
        await handle(connection, *arguments)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(AgentConnection, "_handle", handled)
    greetings = server.gateway.greetings
    async with contextlib.AsyncExitStack() as turns:
        for _ in range(AT_ONCE):
            await turns.enter_async_context(greetings.turn())
        async with socket(server) as websocket:
            link = Link(websocket, host.opening(), 0)
            await until(lambda: came)
            assert greetings.in_progress == 1
            await link.vanish()
            await until(came[0]._peer_left)
    await until(lambda: not greetings.in_progress)
    assert (await Machine.get(id=host.machine_id)).epoch == 0
    async with host.connected() as link:
        assert link.epoch == 1
