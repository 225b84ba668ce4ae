"""Allocations against a model that knows only who has been promised what: Hypothesis looks for the
history in which a GPU has two owners, or in which one is refused for no reason."""

import asyncio
import itertools
import shutil
import uuid
from collections import defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.database.connection import Database
from remotegpu_core.database.transactions import transaction
from remotegpu_core.errors import Conflict, InvalidInput, NoCapacity, RemoteGPUError
from remotegpu_core.models import Allocation, Booking, Command, Machine, Occupancy
from remotegpu_core.services import commands, journals, maintenance
from remotegpu_core.services.addresses.quarantine import judge
from remotegpu_core.services.allocations.duty import expire_due, place_queue, start_due
from remotegpu_core.services.allocations.extend import extend
from remotegpu_core.services.allocations.override import override_quarantine
from remotegpu_core.services.allocations.release import release
from remotegpu_core.services.availability import claims_of
from remotegpu_core.services.hosts import accept_host
from remotegpu_core.settings import Settings, load_settings
from remotegpu_core.states import FINAL, AllocationState, Availability, CommandState, Lifecycle
from tests.core.emptying import Emptier
from tests.core.people import make_admin
from tests.core.services.allocations.hosts import (
    CLEAN,
    MINUTE,
    NOT_CLEANED,
    Host,
    answer,
    any_gpus,
    get,
    make_host,
    report,
)
from tests.core.services.allocations.test_pruning import prune_everything, uncleaned_in_service

T = TypeVar("T")

#: Milliseconds that the test's own running may take: nothing is claimed about what is closer.
MARGIN = MINUTE
MAX_GPUS = 4


@dataclass
class Promise:
    """What somebody was told that they have: GPUs by index, [begin, end) in milliseconds."""

    gpus: frozenset[int]
    begin: int
    end: int


class Allocations(RuleBasedStateMachine):
    prepare: Callable[[], Settings]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.settings = self.prepare()
        self.database = Database(self.settings)
        self.promises: dict[uuid.UUID, Promise] = {}
        self.admin, self.host = self.run(self._begin())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def _begin(self) -> tuple[Actor, Host]:
        await self.database.open()
        return await make_admin(), await make_host("host", 3)

    def teardown(self) -> None:
        try:
            self.run(self._drain())
            self.run(self._check())
        finally:
            self.run(self.database.close())
            self.runner.close()

    async def _drain(self) -> None:
        """Everything comes to its end: nothing is stuck in somebody's hands."""
        for _ in range(4):
            for row in await self._live():
                await self._try(release(self.admin, row.id))
            for command in await Command.filter(state__in=list(commands.OPEN)).order_by("sequence"):
                ends = command.kind == "allocation.end"
                await answer(command, result=CLEAN if ends else None)
        assert await self._live() == []
        assert await Occupancy.filter(closed_at=None).count() == 0
        assert await Booking.filter(held=True).count() == 0

    async def _live(self) -> list[Allocation]:
        live = [state for state in AllocationState if state not in FINAL]
        return await Allocation.filter(state__in=live).order_by("created_at", "id")

    async def _try(self, work: Coroutine[Any, Any, Any]) -> RemoteGPUError | None:
        try:
            await work
        except (Conflict, NoCapacity, InvalidInput) as refused:
            return refused
        return None

    # What people do.

    @rule(
        gpus=st.sets(st.integers(0, MAX_GPUS - 1), max_size=2),
        delay=st.sampled_from([0, 0, 0, 10, 20]),
        length=st.sampled_from([10, 20, 30]),
    )
    def ask(self, gpus: set[int], delay: int, length: int) -> None:
        """For GPUs of the machine, or all of it; now or later."""
        self.run(self._ask({index for index in gpus if index < len(self.host.gpus)}, delay, length))

    async def _ask(self, gpus: set[int], delay: int, length: int) -> None:
        wanted = frozenset(gpus or range(len(self.host.gpus)))
        begin = now_ms() + delay * MINUTE
        values: dict[str, Any] = {"starts_at": begin} if delay else {}
        if gpus:
            values["gpu_ids"] = self.host.gpu(*gpus)
        surely, perhaps = await self._taken(wanted, begin, begin + length * MINUTE, not delay)
        if not gpus:
            # Whoever still has a card that was pulled out since is on the machine all the same.
            every = frozenset(range(MAX_GPUS))
            _, perhaps = await self._taken(every, begin, begin + length * MINUTE, not delay)
        usable = (await Machine.get(id=self.host.id)).lifecycle is Lifecycle.IN_SERVICE
        try:
            row = await get(self.admin, self.settings, self.host, length=length * MINUTE, **values)
        except NoCapacity:
            assert perhaps or not usable, "refused for no reason"
            return
        assert usable
        assert not surely, "promised twice"
        self.promises[row.id] = Promise(wanted, row.starts_at, row.ends_at)

    async def _taken(
        self, gpus: frozenset[int], begin: int, end: int, now: bool
    ) -> tuple[bool, bool]:
        """Whether something is surely taken then, and whether it may be."""
        live = {row.id for row in await self._live()}
        promises = [p for key, p in self.promises.items() if key in live and p.gpus & gpus]
        handed = {
            row.gpu_id for row in await Occupancy.filter(closed_at=None) if row.gpu_id is not None
        }
        here = [index for index in gpus if index < len(self.host.gpus)]
        in_hands = now and any(self.host.gpus[index].id in handed for index in here)
        surely = any(p.begin + MARGIN < end and begin + MARGIN < p.end for p in promises)
        perhaps = any(p.begin - MARGIN < end and begin - MARGIN < p.end for p in promises)
        return surely or in_hands, perhaps or in_hands

    @rule(count=st.integers(1, 3), wait=st.booleans())
    def ask_for_any(self, count: int, wait: bool) -> None:
        async def ask() -> None:
            await self._try(get(self.admin, self.settings, requirement=any_gpus(count), wait=wait))

        self.run(ask())
        self.run(self._learn())

    @rule(which=st.integers(0, 9), by=st.sampled_from([-10, -5, 5, 10, 30]))
    def extend(self, which: int, by: int) -> None:
        self.run(self._extend(which, by))

    async def _extend(self, which: int, by: int) -> None:
        row = self._pick(await self._live(), which)
        promise = self.promises.get(row.id) if row else None
        if row is None or promise is None:
            return
        end = row.ends_at + by * MINUTE
        others = {
            key: other
            for key, other in self.promises.items()
            if key != row.id and key in {one.id for one in await self._live()}
        }
        clash = any(
            other.gpus & promise.gpus and other.begin < end and promise.begin < other.end
            for other in others.values()
        )
        if await self._try(extend(self.admin, self.settings, row.id, end)) is None:
            assert not clash, "extended into somebody else's time"
            promise.end = end

    @rule(which=st.integers(0, 9))
    def release(self, which: int) -> None:
        async def give_back() -> None:
            row = self._pick(await self._live(), which)
            if row is not None:
                await self._try(release(self.admin, row.id))

        self.run(give_back())

    # What the host does.

    @rule(
        which=st.integers(0, 9),
        state=st.sampled_from(
            [
                *[CommandState.SUCCEEDED] * 5,
                CommandState.FAILED,
                CommandState.REFUSED,
                CommandState.CANCELLED,
                CommandState.INDETERMINATE,
            ]
        ),
        cleans=st.sampled_from([True, True, False]),
    )
    def host_answers(self, which: int, state: CommandState, cleans: bool) -> None:
        async def say() -> None:
            known = await Command.filter(
                state__in=[*commands.OPEN, CommandState.INDETERMINATE]
            ).order_by("sequence")
            command = self._pick(known, which)
            if command is None:
                return
            # Those of one allocation are done in their order.
            (command, *_) = [one for one in known if one.allocation_id == command.allocation_id]
            report = CLEAN if cleans else NOT_CLEANED
            await answer(
                command, state, result=report if command.kind == "allocation.end" else None
            )

        self.run(say())

    async def _unaccepted(self) -> list[Command]:
        waits = Command.filter(machine_id=self.host.id, state__in=list(commands.UNACCEPTED))
        return await waits.order_by("sequence")

    @rule(which=st.integers(0, 9))
    def host_sees(self, which: int) -> None:
        async def see() -> None:
            command = self._pick(await self._unaccepted(), which)
            if command is not None:
                await commands.mark_sent([command.id])

        self.run(see())

    @rule(count=st.integers(2, MAX_GPUS))
    def gpus_come_and_go(self, count: int) -> None:
        async def change() -> None:
            await report(self.host, count)

        self.run(change())
        self.run(self._learn())

    @rule()
    def admin_overrides(self) -> None:
        self.run(self._try(override_quarantine(self.admin, self.host.id, "looked")))

    @rule()
    def admin_accepts(self) -> None:
        self.run(self._try(accept_host(self.admin, self.host.id)))

    @rule()
    def journal_goes_back(self) -> None:
        async def meet() -> None:
            await Machine.filter(id=self.host.id).update(journal_id="one", event_sequence=9)
            machine = await Machine.get(id=self.host.id)
            await journals.meet(machine, journals.Journal("one", 8))

        self.run(meet())

    @rule()
    def judged(self) -> None:
        async def judging() -> None:
            async with transaction():
                await judge(self.host.id, self.admin)

        self.run(judging())
        self.run(self._try(maintenance.start_maintenance(self.admin, self.host.id, "a look")))
        self.run(self._try(maintenance.end_maintenance(self.admin, self.host.id)))

    @rule()
    def what_is_over_is_forgotten(self) -> None:
        self.run(prune_everything())

    # What time does.

    @rule(minutes=st.sampled_from([5, 10, 20]))
    def time_passes(self, minutes: int) -> None:
        async def shift() -> None:
            by = minutes * MINUTE
            for row in await Allocation.all():
                await Allocation.filter(id=row.id).update(
                    starts_at=row.starts_at - by, ends_at=row.ends_at - by
                )
            # The earliest first, so that none runs into the one before it.
            for booking in await Booking.all().order_by("starts_at"):
                await Booking.filter(id=booking.id).update(
                    starts_at=booking.starts_at - by, ends_at=booking.ends_at - by
                )
            for promise in self.promises.values():
                promise.begin, promise.end = promise.begin - by, promise.end - by

        self.run(shift())

    @rule()
    def duties(self) -> None:
        async def once() -> None:
            await expire_due()
            await start_due()
            await place_queue()

        self.run(once())
        self.run(self._learn())

    @rule(which=st.integers(0, 9), by=st.sampled_from([5, 10]))
    def everything_at_once(self, which: int, by: int) -> None:
        async def all_of_it() -> None:
            row = self._pick(await self._live(), which)
            work = [expire_due(), start_due(), place_queue(), expire_due(), start_due()]
            if row is not None:
                work.append(self._try(release(self.admin, row.id)))  # type: ignore[arg-type]  # what comes of it does not matter
            await asyncio.gather(*work, self._extend(which, by))

        self.run(all_of_it())
        self.run(self._learn())

    async def _learn(self) -> None:
        """Places that the system chose by itself, and GPUs that joined: they must be free too."""
        index_of = {gpu.id: index for index, gpu in enumerate(self.host.gpus)}
        for row in await self._live():
            booked = await Booking.filter(allocation_id=row.id, held=True)
            gpus = frozenset(
                index_of[b.gpu_id] for b in booked if b.gpu_id and b.gpu_id in index_of
            )
            if not gpus:
                continue
            known = self.promises.get(row.id)
            if known is None:
                self.promises[row.id] = Promise(gpus, row.starts_at, row.ends_at)
            else:
                known.gpus = gpus

    # What always holds.

    @invariant()
    def nobody_shares(self) -> None:
        self.run(self._check())

    async def _check(self) -> None:
        taken: dict[uuid.UUID, list[Occupancy]] = defaultdict(list)
        for row in await Occupancy.all().order_by("opened_at", "id"):
            taken[row.resource_id].append(row)
        for rows in taken.values():
            for earlier, later in itertools.pairwise(rows):
                assert earlier.closed_at is not None, "two owners"
                assert earlier.closed_at <= later.opened_at, "two owners"
        for row in (row for rows in taken.values() for row in rows):
            assert (row.closed_at is None) == (row.receipt_id is None)
        booked: dict[uuid.UUID, list[Booking]] = defaultdict(list)
        for booking in await Booking.filter(held=True).order_by("starts_at"):
            booked[booking.resource_id].append(booking)
        for bookings in booked.values():
            for before, after in itertools.pairwise(bookings):
                assert before.ends_at <= after.starts_at, "booked twice"
        every = await Allocation.all()
        states = {row.id: row.state for row in every}
        for allocation in every:
            for booking in (b for rows in booked.values() for b in rows):
                if booking.allocation_id == allocation.id:
                    span = (allocation.starts_at, allocation.ends_at)
                    assert (booking.starts_at, booking.ends_at) == span, (
                        "promised what is not booked"
                    )
        for row in (row for rows in taken.values() for row in rows):
            over = states[row.allocation_id] in FINAL
            assert over == (row.closed_at is not None), "who is gone holds nothing"
        active = {key for key, state in states.items() if state is AllocationState.ACTIVE}
        assert active <= {row.allocation_id for rows in taken.values() for row in rows}
        assert not await uncleaned_in_service(self.host), "in service, and not proven clean"
        claims = (await claims_of([self.host.id])).get(self.host.id, {})
        for gpu in self.host.gpus:
            in_hands = any(row.closed_at is None for row in taken[gpu.id])
            if in_hands:
                assert claims.get(gpu.id, Availability.AVAILABLE) is not Availability.AVAILABLE

    def _pick(self, rows: list[T], which: int) -> T | None:
        return rows[which % len(rows)] if rows else None


@pytest.mark.parametrize(("backend", "examples"), [("sqlite", 20), ("postgres", 8)])
def test_nobody_ever_shares(
    request: pytest.FixtureRequest, tmp_path: Path, backend: str, examples: int
) -> None:
    source: Any = request.getfixturevalue(
        "sqlite_template" if backend == "sqlite" else "migrated_postgres"
    )
    folders = iter(range(10_000))

    def prepare() -> Settings:
        if isinstance(source, Emptier):
            source.empty()
            return load_settings(data_dir=tmp_path, database_url=source.url)
        settings = load_settings(data_dir=tmp_path / str(next(folders)))
        settings.data_dir.mkdir(mode=0o700)
        shutil.copy(source, settings.sqlite_path)
        return settings

    machine = type("Prepared", (Allocations,), {"prepare": staticmethod(prepare)})
    run_state_machine_as_test(
        machine,
        settings=hypothesis_settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
