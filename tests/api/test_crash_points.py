"""A control plane killed at every commit, sending, event and acknowledgement, before and after each.

The host's agent lives on, and so does whoever asked: with the same key again. Nothing is lost, nothing
is done twice, and everything comes to its end.
"""

import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from remotegpu_agent.logs import configure_logs
from remotegpu_core.clock import now_ms
from remotegpu_core.database.connection import Database
from remotegpu_core.models import (
    Allocation,
    AuditEvent,
    CleaningReceipt,
    Command,
    Occupancy,
    Operation,
)
from remotegpu_core.settings import load_settings
from remotegpu_core.states import FINAL, AllocationState, CommandState
from tests.api.doomed import MEETING, MOMENTS, Life, lived
from tests.api.effects import EffectHost
from tests.api.plane import ADMIN_PASSWORD, Backend, lay_out
from tests.core.people import HOUR
from tests.services.ports import LOOPBACK, unused_port

pytestmark = [pytest.mark.timeout(600)]


class Deaths:
    """Processes that follow one another on one database, with one host."""

    def __init__(self, backend: Backend, folder: Path) -> None:
        lay_out(backend, folder / "data")
        self.settings: dict[str, Any] = {
            "port": unused_port(),
            "data_dir": folder / "data",
            "database_url": backend.database_url,
            "redis_url": backend.redis_url,
            "admin_password": ADMIN_PASSWORD,
        }
        self.host = EffectHost(folder / "host", "gpu-01")
        self.ends_at = now_ms() + 10 * HOUR
        self.died = 0
        #: Of what was asked for, the first that may not be done, and how many were asked for.
        self._undone = 0
        self._asked = 0

    async def prepare(self) -> None:
        database = Database(load_settings(**self.settings))
        await database.open()
        self.machine = await self.host.make_machine()
        await self.host.hesitate(1)
        await database.close()

    async def one(self, moment: str = "", time: int = 1) -> bool:
        """One life, in which somebody asks for something new; whether it ended at the moment."""
        self._asked += 1
        rounds = tuple(range(self._undone, self._asked))
        life = Life(self.settings, self.machine.id, self.ends_at, rounds, moment, time)
        async with lived(life) as process:
            assert process.exitcode in {0, -signal.SIGKILL}, process.exitcode
            if process.exitcode == 0:
                self._undone = self._asked
                return False
        self.died += 1
        return True

    async def check(self) -> None:
        """The history that the host and the database kept."""
        database = Database(load_settings(**self.settings))
        await database.open()
        try:
            await self._check()
        finally:
            await database.close()

    async def _check(self) -> None:
        effects = self.host.effects.count()
        allocations = await Allocation.all()
        # One for each time that somebody asked, however often they did.
        assert len(allocations) == 2 * self._asked
        asked = await AuditEvent.filter(action="allocate").count()
        assert asked == 2 * self._asked
        for allocation in allocations:
            told = await Command.filter(allocation_id=allocation.id).order_by("sequence")
            assert allocation.state is AllocationState.RELEASED, allocation.error_message
            ends = Counter(command.kind for command in told)
            assert max(ends.values()) == 1, ends
            for command in told:
                assert command.state in FINAL
                done = effects[f"{command.kind.split('.')[1]}:{allocation.id}"]
                assert done == (command.state is CommandState.SUCCEEDED), (command.kind, done)
            assert await CleaningReceipt.filter(allocation_id=allocation.id).count() == 1
        assert sum(effects.values()) == await Command.filter(state="SUCCEEDED").count()
        assert not await Occupancy.filter(closed_at=None).exists()
        assert not await Operation.filter(finished_at=None).exists()


@pytest.fixture
async def deaths(backend: Backend, tmp_path: Path) -> AsyncIterator[Deaths]:
    made = Deaths(backend, tmp_path)
    await made.prepare()
    configure_logs("error", "console")
    async with made.host.running(f"http://{LOOPBACK}:{made.settings['port']}"):
        yield made


async def die_of_everything(deaths: Deaths, *, most: int) -> None:
    """At each moment, the first time that it comes, the second, and so on until it does not."""
    for moment in MEETING:
        assert await deaths.one(moment), f"there is no moment {moment}"
    for moment in MOMENTS:
        for time in range(1, most + 1):
            if not await deaths.one(moment, time):
                assert time > 1, f"there is no moment {moment}"
                break
    await deaths.one()
    await deaths.check()


async def test_killed_at_each_kind_of_moment(deaths: Deaths) -> None:
    await die_of_everything(deaths, most=1)
    assert deaths.died == len(MEETING) + len(MOMENTS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_killed_at_every_moment(deaths: Deaths) -> None:
    await die_of_everything(deaths, most=100)
    assert deaths.died > 2 * len(MOMENTS)
