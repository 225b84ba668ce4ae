"""Hypothesis disturbs two replicas, Redis and several hosts, and looks for the history in which a
command is lost, done twice or without an end, or in which a GPU has two owners."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import anyio.from_thread
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.api.chaos import GPUS, Host, World
from tests.api.doomed import Replica
from tests.services.few_pids import PidLimit
from tests.services.postgres import PostgresServer
from tests.services.redis import RedisServer
from tests.services.small_disk import fill, make_room, use_up_inodes

T = TypeVar("T")

HOSTS = 3
#: Milliseconds.
DAY = 86_400_000
hosts = st.integers(0, HOSTS - 1)
replicas = st.integers(0, 1)
which = st.integers(0, 9)


class Chaos(RuleBasedStateMachine):
    """The world outlives an example: each begins where nothing is under way."""

    world: World
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    #: Seconds for which a process stands still: nothing notices, all links end.
    pauses: tuple[float, ...]

    def teardown(self) -> None:
        self.run(self.world.settle())
        self.run(self.world.check())

    @initialize(muted=st.booleans(), pause=st.sampled_from([0.0, 0.02, 0.1, 0.5]))
    def begin(self, muted: bool, pause: float) -> None:
        """Hypothesis leaves rules out, and without anything to do there is nothing to disturb."""
        for host in self.world.hosts:
            host.detour.mute = muted
            self.run(self.world.allocate(host, [0]))
        self.run(asyncio.sleep(pause))

    @rule(
        host=hosts,
        gpus=st.sets(st.integers(0, GPUS - 1), max_size=2),
        pause=st.sampled_from([0.0, 0.05, 0.2]),
    )
    def ask(self, host: int, gpus: set[int], pause: float) -> None:
        self.run(self.world.allocate(self.world.hosts[host], sorted(gpus)))
        self.run(asyncio.sleep(pause))

    @rule(which=which)
    def give_back(self, which: int) -> None:
        self.with_one(which, self.world.release)

    @rule(which=which)
    def call_off(self, which: int) -> None:
        self.with_one(which, self.world.call_off)

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.0]))
    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(host=hosts)
    def cut(self, host: int) -> None:
        self.run(self._cut(host))

    @rule(host=hosts, replica=replicas)
    def move(self, host: int, replica: int) -> None:
        detour = self.world.hosts[host].detour
        detour.target = self.world.replicas[replica].settings["port"]
        self.cut(host)

    @rule(host=hosts)
    def mute(self, host: int) -> None:
        """It hears, and is not heard: what it does is told after the next cut."""
        self.world.hosts[host].detour.mute = True

    @rule(host=hosts)
    def deafen(self, host: int) -> None:
        self.world.hosts[host].detour.deaf = True

    @rule(replica=replicas)
    def kill(self, replica: int) -> None:
        """It comes back at once, and needs a moment for it."""
        self.world.replicas[replica].kill()
        self.world.replicas[replica].start()

    @rule(host=hosts)
    def restart_agent(self, host: int) -> None:
        self.world.hosts[host].kill()
        self.world.hosts[host].start()

    @rule(host=hosts)
    def back_up(self, host: int) -> None:
        self.world.hosts[host].back_up()

    @rule(host=hosts)
    def restore(self, host: int) -> None:
        self.run(self.world.restore(self.world.hosts[host]))

    @rule(host=hosts)
    def mend(self, host: int) -> None:
        self.run(self.world.mend(self.world.hosts[host]))

    @rule(how=st.sampled_from(["flush", "drop_clients", "restart"]))
    def disturb_redis(self, how: str) -> None:
        getattr(self.world.redis, how)()

    @invariant()
    def nobody_shares(self) -> None:
        for host in self.world.hosts:
            self.world.check_owners(host)

    async def _cut(self, host: int) -> None:
        self.world.hosts[host].detour.cut()

    def with_one(self, which: int, act: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        async def one() -> None:
            live = await self.world.live()
            if live:
                await act(live[which % len(live)])

        self.run(one())


class RoughChaos(Chaos):
    """Clocks leap, processes stand still, disks fill up and the database refuses, too."""

    @initialize()
    def thaw(self) -> None:
        self.run(self.world.thaw())

    @rule(replica=replicas, days=st.sampled_from([-1, 1]))
    def leap(self, replica: int, days: int) -> None:
        self.world.replicas[replica].clock.ahead += days * DAY

    @rule(replica=replicas)
    def set_right(self, replica: int) -> None:
        self.world.replicas[replica].clock.ahead = 0

    @rule(host=hosts, days=st.sampled_from([-1, 0, 1]))
    def set_clock_of_host(self, host: int, days: int) -> None:
        self.world.hosts[host].effects.clock.ahead = days * DAY

    @rule(replica=replicas, which=which)
    def stop_replica(self, replica: int, which: int) -> None:
        self._pause(self.world.replicas[replica], which)

    @rule(host=hosts, which=which)
    def stop_host(self, host: int, which: int) -> None:
        self._pause(self.world.hosts[host], which)

    @rule(host=hosts)
    def fill_disk(self, host: int) -> None:
        fill(self.world.hosts[host].disk)

    @rule(host=hosts)
    def use_up_inodes(self, host: int) -> None:
        use_up_inodes(self.world.hosts[host].disk)

    @rule(host=hosts)
    def make_room(self, host: int) -> None:
        make_room(self.world.hosts[host].disk)

    @rule(host=hosts)
    def use_up_pids(self, host: int) -> None:
        self._pids(host).use_up()

    @rule(host=hosts)
    def lift_limit_of_pids(self, host: int) -> None:
        self._pids(host).lift()

    @rule(refuse=st.booleans())
    def have_database_refuse(self, refuse: bool) -> None:
        if refuse:
            self.run(self.world.refuse_writes())
        else:
            self.world.take_writes()

    @invariant()
    def nothing_ends_by_a_clock(self) -> None:
        self.run(self.world.check_endings())

    def _pids(self, host: int) -> PidLimit:
        found = self.world.hosts[host]
        if found.pids is None:
            # It holds for agents that are started from now on.
            found.limit_pids()
            found.kill()
            found.start()
        assert found.pids is not None
        return found.pids

    def _pause(self, process: Replica | Host, which: int) -> None:
        process.pause()
        self.run(asyncio.sleep(self.pauses[which % len(self.pauses)]))
        process.resume()


async def _awaited(work: Coroutine[Any, Any, T]) -> T:
    return await work


@pytest.fixture
def chaos(
    postgres_server: PostgresServer,
    postgres_template: str,
    private_redis: RedisServer,
    tmp_path: Path,
) -> Iterator[Callable[[type[Chaos]], type[Chaos]]]:
    with (
        postgres_server.database(template=postgres_template) as url,
        anyio.from_thread.start_blocking_portal() as portal,
    ):
        world = World(url, postgres_server, private_redis, tmp_path, HOSTS)

        # The ways of the hosts go on while Hypothesis thinks.
        def run(work: Coroutine[Any, Any, T]) -> T:
            found: T = portal.call(_awaited, work)
            return found

        try:
            run(world.start())
            prepared = {"world": world, "run": staticmethod(run)}
            yield lambda kind: type("Prepared", (kind,), prepared)
        finally:
            run(world.stop())


@pytest.mark.parametrize(
    ("kind", "examples", "steps", "pauses"),
    [
        pytest.param(Chaos, 5, 20, (), id="short"),
        # A minute is longer than links live, and than commands wait for an answer.
        pytest.param(
            RoughChaos,
            150,
            40,
            (0.5, 1.0, 3.0, 10.0, 60.0),
            id="long",
            marks=[pytest.mark.soak, pytest.mark.timeout(3000)],
        ),
    ],
)
def test_nothing_is_lost_or_doubled(
    chaos: Callable[[type[Chaos]], type[Chaos]],
    kind: type[Chaos],
    examples: int,
    steps: int,
    pauses: tuple[float, ...],
) -> None:
    prepared = chaos(kind)
    prepared.pauses = pauses
    run_state_machine_as_test(
        prepared,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            # The same steps make another history the next time: nothing can be made smaller.
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
