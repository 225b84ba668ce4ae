"""Two replicas, PostgreSQL, Redis and several hosts, all of which can be disturbed; and a checker over
the history that the hosts and the database kept."""

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import time
import uuid
from collections import defaultdict
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from remotegpu_agent.commands.journal import Journal
from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.database.connection import Database
from remotegpu_core.database.failures import DATABASE_ERRORS
from remotegpu_core.errors import RemoteGPUError
from remotegpu_core.models import Allocation, Booking, Command, Gpu, Machine, Occupancy, Operation
from remotegpu_core.services import commands, freeze
from remotegpu_core.services.allocations.allocate import allocate
from remotegpu_core.services.allocations.override import override_quarantine
from remotegpu_core.services.allocations.release import cancel_operation, release
from remotegpu_core.services.allocations.request import AllocateRequest
from remotegpu_core.services.hosts import accept_host
from remotegpu_core.settings import Settings, load_settings
from remotegpu_core.states import FINAL, AllocationState, CommandState, Lifecycle
from tests.api.detour import Detour
from tests.api.doomed import Replica
from tests.api.effects import EffectHost
from tests.api.plane import ADMIN_PASSWORD
from tests.core.patience import eventually
from tests.core.people import HOUR, make_admin
from tests.services.few_pids import PidLimit
from tests.services.ports import LOOPBACK, unused_port
from tests.services.postgres import PostgresServer
from tests.services.redis import RedisServer
from tests.services.small_disk import make_room, small_disk

#: Seconds within which everything must come to its end once nothing is disturbed any more.
PATIENCE = 60.0

GPUS = 3

_LIVE = [state for state in AllocationState if state not in FINAL]


class Host:
    """A host, its way to the replicas, and the copy of its disk that somebody made."""

    def __init__(self, folder: Path, name: str, target: int) -> None:
        self.disk = folder / "disk"
        self.effects = EffectHost(folder, name, state=self.disk / "state")
        self.detour = Detour(target)
        self.machine_id = uuid.UUID(int=0)
        self.gpus: list[uuid.UUID] = []
        self._folder = folder
        self._process: BaseProcess | None = None
        self._mount = contextlib.ExitStack()
        #: Set where it can be: it needs root.
        self.pids: PidLimit | None = None

    def limit_pids(self) -> None:
        self.pids = PidLimit()
        self.pids.make()
        self._mount.callback(self.pids.remove)

    def mount(self) -> None:
        self._mount.enter_context(small_disk(self.disk, size=8 * 1024 * 1024, inodes=200))
        self.effects.state.create()

    def unmount(self) -> None:
        self._mount.close()

    def start(self) -> None:
        origin = f"http://{LOOPBACK}:{self.detour.port}"
        self._process = self.effects.process(origin, gpus=GPUS)
        if self.pids is not None and self._process.pid is not None:
            self.pids.lift()
            self.pids.take_in(self._process.pid)

    def kill(self) -> None:
        """As a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.join(20)

    def pause(self) -> None:
        if self._process is not None and self._process.pid and self._process.is_alive():
            os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None and self._process.pid and self._process.is_alive():
            os.kill(self._process.pid, signal.SIGCONT)

    def back_up(self) -> None:
        """Copy its state while nothing is under way: what a copy has begun it would go on with."""
        self.kill()
        if (self.effects.state.path / "journal.db").exists():
            # The copy is opened: the disk of the host may have no room for that.
            new = self._folder / "new-copy"
            shutil.rmtree(new, ignore_errors=True)
            shutil.copytree(self.effects.state.path, new)
            journal = Journal(new / "journal.db")
            idle = not journal.open_records()
            journal.close()
            if idle:
                shutil.rmtree(self._copy, ignore_errors=True)
                new.rename(self._copy)
        self.start()

    def restore(self) -> bool:
        if not self._copy.exists():
            return False
        self.kill()
        # An operator who restores a host with a full disk makes room first.
        make_room(self.disk)
        shutil.rmtree(self.effects.state.path)
        shutil.copytree(self._copy, self.effects.state.path)
        self.start()
        return True

    @property
    def _copy(self) -> Path:
        return self._folder / "copy"


class World:
    def __init__(
        self,
        database_url: str,
        postgres: PostgresServer,
        redis: RedisServer,
        folder: Path,
        hosts: int,
    ) -> None:
        self.redis = redis
        self._postgres = postgres
        self._database_name = database_url.rsplit("/", 1)[1]
        ports = [unused_port(), unused_port()]
        self.hosts = [
            Host(folder / f"host-{n}", f"gpu-0{n}", ports[n % 2]) for n in range(1, hosts + 1)
        ]
        given: dict[str, Any] = {
            "data_dir": folder / "data",
            "database_url": database_url,
            "redis_url": redis.url,
            "admin_password": ADMIN_PASSWORD,
            "agent_urls": [f"http://{LOOPBACK}:{host.detour.port}" for host in self.hosts],
        }
        self.replicas = [Replica(given | {"port": port}) for port in ports]
        self.settings: Settings = load_settings(**given)
        self.database = Database(self.settings)
        self.admin: Actor
        #: Commands that a restored host may have done and forgotten: nobody can know that it did.
        self.forgotten: set[uuid.UUID] = set()
        #: Allocations that were given back; none of the others may end.
        self.given_back: set[uuid.UUID] = set()

    async def start(self) -> None:
        await self.database.open()
        self.admin = await make_admin()
        for replica in self.replicas:
            replica.start()
        for host in self.hosts:
            host.mount()
            host.machine_id = (await host.effects.make_machine()).id
            await host.detour.start()
            host.start()
        for host in self.hosts:
            gpus = Gpu.filter(machine_id=host.machine_id).order_by("index")
            await eventually(gpus.exists, patience=PATIENCE)
            host.gpus = [gpu.id for gpu in await gpus]

    async def stop(self) -> None:
        for host in self.hosts:
            host.resume()
            host.kill()
            host.unmount()
            await host.detour.stop()
        for replica in self.replicas:
            replica.resume()
            replica.kill()
        await self.database.close()

    async def thaw(self) -> None:
        """End the freeze that every start begins: while it holds no clock could end anything.

        One that a replica began for its clock outlives that replica for minutes.
        """
        if await freeze.is_frozen():
            # All clocks are right again, and each replica looks at its own every second.
            await asyncio.sleep(2)
            await _try(freeze.end(self.admin))

    # What people do. Whether they may does not matter here.

    async def allocate(self, host: Host, indexes: list[int]) -> None:
        request = AllocateRequest(
            machine_id=host.machine_id,
            gpu_ids=tuple(host.gpus[index] for index in indexes) or None,
            ends_at=now_ms() + HOUR,
        )
        await _try(allocate(self.admin, self.settings, request))

    async def live(self) -> list[Allocation]:
        return await Allocation.filter(state__in=_LIVE).order_by("created_at", "id")

    async def release(self, allocation: Allocation) -> None:
        self.given_back.add(allocation.id)
        await _try(release(self.admin, allocation.id))

    async def call_off(self, allocation: Allocation) -> None:
        self.given_back.add(allocation.id)
        operation = await Operation.filter(allocation_id=allocation.id, kind="allocate").first()
        if operation is not None:
            await _try(cancel_operation(self.admin, operation.id))

    async def restore(self, host: Host) -> None:
        under_way = Command.filter(machine_id=host.machine_id, state__in=list(commands.OPEN))
        known = set(await under_way.values_list("id", flat=True))
        if host.restore():
            self.forgotten |= known  # type: ignore[arg-type]  # ids

    async def mend(self, host: Host) -> None:
        """What an operator does about a host: trusts it again, has it clean up, puts it to use."""
        await _try(accept_host(self.admin, host.machine_id))
        stuck = Allocation.filter(machine_id=host.machine_id, state=AllocationState.RECLAIMING)
        for allocation in await stuck:
            await self.release(allocation)
        machine = await Machine.get(id=host.machine_id)
        if machine.lifecycle is Lifecycle.QUARANTINED and not await stuck.exists():
            await _try(override_quarantine(self.admin, host.machine_id, "looked at it"))

    async def refuse_writes(self) -> None:
        self._postgres.refuse_writes(self._database_name)
        # Sessions were ended, ours too: whoever asks next may meet one of them.
        await eventually(_answers, patience=PATIENCE)

    def take_writes(self) -> None:
        self._postgres.take_writes(self._database_name)

    # What must hold.

    async def settle(self) -> None:
        """Everything comes to its end when nothing is disturbed any more."""
        self.take_writes()
        for replica in self.replicas:
            replica.clock.ahead = 0
            replica.resume()
            replica.start()
        for host in self.hosts:
            host.effects.clock.ahead = 0
            make_room(host.disk)
            if host.pids is not None:
                host.pids.lift()
            host.resume()
            host.detour.cut()
        # What was asked for last is done as well, for the most part.
        await asyncio.sleep(1)
        deadline = time.monotonic() + PATIENCE
        while await self.live() or await Command.exists(state__in=list(commands.OPEN)):
            for allocation in await self.live():
                await self.release(allocation)
            for host in self.hosts:
                await self.mend(host)
            assert time.monotonic() < deadline, [
                (row.kind, row.state, row.machine_id)
                for row in await Command.filter(state__in=list(commands.OPEN))
            ]
            await asyncio.sleep(0.1)
        for host in self.hosts:
            await self.mend(host)

    async def check(self) -> None:
        await self._check_effects()
        await self._check_database()
        await self.check_endings()
        for host in self.hosts:
            self.check_owners(host)

    async def check_endings(self) -> None:
        """Nothing ends because a clock says so: all of it was taken for an hour."""
        over = [AllocationState.RECLAIMING, AllocationState.RELEASED]
        ended = set(await Allocation.filter(state__in=over).values_list("id", flat=True))
        assert ended <= self.given_back, "ended by a clock"

    async def _check_effects(self) -> None:
        done: dict[str, int] = defaultdict(int)
        for host in self.hosts:
            for effect, times in host.effects.effects.count().items():
                done[effect] += times
        told: dict[str, list[Command]] = defaultdict(list)
        for command in await Command.all():
            told[f"{command.kind.split('.')[1]}:{command.allocation_id}"].append(command)
        assert set(done) <= set(told), "an effect that nobody asked for"
        for effect, rows in told.items():
            ends = [row.state for row in rows]
            succeeded = ends.count(CommandState.SUCCEEDED)
            unknown = ends.count(CommandState.INDETERMINATE)
            forgotten = sum(row.id in self.forgotten for row in rows)
            # A look-up of cleaning that was done before finds it done: no second line then.
            assert done[effect] >= min(succeeded, 1), (effect, ends, "lost")
            assert done[effect] <= succeeded + unknown + forgotten, (effect, ends, "doubled")

    async def _check_database(self) -> None:
        taken: dict[uuid.UUID, list[Occupancy]] = defaultdict(list)
        for row in await Occupancy.all().order_by("opened_at", "id"):
            taken[row.resource_id].append(row)
        for rows in taken.values():
            for earlier, later in itertools.pairwise(rows):
                assert earlier.closed_at is not None, "two owners"
                assert earlier.closed_at <= later.opened_at, "two owners"
        booked: dict[uuid.UUID, list[Booking]] = defaultdict(list)
        for booking in await Booking.filter(held=True).order_by("starts_at"):
            booked[booking.resource_id].append(booking)
        for bookings in booked.values():
            for before, after in itertools.pairwise(bookings):
                assert before.ends_at <= after.starts_at, "booked twice"
        live = {row.id for row in await self.live()}
        held = {row.allocation_id for rows in taken.values() for row in rows if not row.closed_at}
        assert held <= live, "who is gone holds nothing"

    @staticmethod
    def check_owners(host: Host) -> None:
        """As the host saw it: nobody was given a GPU that somebody had not given back."""
        owner: dict[str, str] = {}
        path = host.effects.owners.path
        for line in path.read_text().split() if path.exists() else ():
            what, who, gpus = line.split(":")
            if what == "-":
                owner = {gpu: other for gpu, other in owner.items() if other != who}
                continue
            for gpu in filter(None, gpus.split(",")):
                assert owner.get(gpu, who) == who, "two owners on the host"
                owner[gpu] = who


async def _answers() -> bool:
    try:
        for _ in range(20):
            await Machine.exists()
    except DATABASE_ERRORS:
        return False
    return True


async def _try(work: Any) -> None:
    try:
        await work
    except RemoteGPUError:
        return
