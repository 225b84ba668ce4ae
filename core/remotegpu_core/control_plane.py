"""Everything that one control plane process shares between its parts."""

import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import structlog

from remotegpu_core.bus.bus import Bus
from remotegpu_core.clock import now_ms
from remotegpu_core.database.connection import Database
from remotegpu_core.live.changes import ChangeFeed
from remotegpu_core.live.gpu_ids import GpuIds
from remotegpu_core.live.operations import OperationFeed
from remotegpu_core.live.samples import SampleFeed
from remotegpu_core.models import AllocationEvent, MachineChange
from remotegpu_core.persisted_documents import PersistedDocuments
from remotegpu_core.rates import Rates
from remotegpu_core.services.allocations.log import ALLOCATION_LOG
from remotegpu_core.services.changes import MACHINE_LOG
from remotegpu_core.services.refusals import Refusals
from remotegpu_core.services.users import ensure_admin
from remotegpu_core.settings import Settings
from remotegpu_core.versions import VersionWatch

log = structlog.get_logger()


@dataclass(eq=False)
class ControlPlane:
    """Settings and long-lived parts. `replica_id` names this process among its like."""

    settings: Settings
    database: Database
    bus: Bus
    replica_id: uuid.UUID
    started_at: int
    versions: VersionWatch = field(init=False)
    samples: SampleFeed = field(init=False)
    changes: ChangeFeed[MachineChange] = field(init=False)
    allocations: ChangeFeed[AllocationEvent] = field(init=False)
    operations: OperationFeed = field(init=False)
    rates: Rates = field(init=False)
    documents: PersistedDocuments = field(init=False)
    refusals: Refusals = field(default_factory=Refusals)
    gpu_ids: GpuIds = field(default_factory=GpuIds)
    #: The password that the first start made up for `admin`, for showing it once.
    first_password: str | None = None

    def __post_init__(self) -> None:
        self.versions = VersionWatch(self.bus)
        self.samples = SampleFeed(self.bus, self.replica_id)
        # Without a Redis of its own there is one process, which knows everything by itself.
        self.rates = Rates(self.settings, self.bus.redis if self.settings.redis_url else None)
        self.documents = PersistedDocuments(self.bus.redis)
        self.changes = ChangeFeed(MACHINE_LOG, self.versions)
        self.allocations = ChangeFeed(ALLOCATION_LOG, self.versions)
        self.operations = OperationFeed(self.versions)


@contextlib.asynccontextmanager
async def control_plane(settings: Settings) -> AsyncIterator[ControlPlane]:
    """Open the database, bring it up to date, join the bus; undo all of it at the end.

    Raises:
        InvalidInput, Unavailable: what an operator can mend, with how.
    """
    database = Database(settings)
    await database.open()
    try:
        for name in await database.migrate():
            log.info("database.migrated", migration=name)
        password = settings.admin_password
        first_password = await ensure_admin(password.get_secret_value() if password else None)
        plane = ControlPlane(
            settings=settings,
            database=database,
            bus=Bus(settings.redis_url, settings.ca_file),
            replica_id=uuid.uuid4(),
            started_at=now_ms(),
            first_password=first_password,
        )
        await plane.bus.start()
        try:
            await plane.versions.start()
            plane.samples.start()
            plane.rates.start()
            plane.refusals.start()
            yield plane
        finally:
            await plane.refusals.stop()
            await plane.rates.stop()
            await plane.samples.stop()
            await plane.versions.stop()
            await plane.bus.stop()
    finally:
        await database.close()
