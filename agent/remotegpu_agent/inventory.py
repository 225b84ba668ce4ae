"""The inventory: what the host is, what its driver says, and when to say it again."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from msgspec import structs

from remotegpu_agent.commands.policy import LocalPolicy
from remotegpu_agent.host import read_host
from remotegpu_agent.reclaim.readiness import Readiness
from remotegpu_agent.sources.source import DriverReport, GpuSource
from remotegpu_agent.ssh.server import SshServerReader
from remotegpu_protocol.inventory import (
    GpuInventory,
    GpuIsolation,
    HostInventory,
    Inventory,
)
from remotegpu_protocol.kinds import ACCOUNT_KEYS

#: Seconds between two looks at whether something changed.
CHECK_INTERVAL: Final = 30.0

#: Seconds between two readings, however often a source says that something changed.
_PAUSE: Final = 1.0

#: Turns the host as it is into the host as it is shown (simulated hosts differ).
Presented = Callable[[HostInventory], HostInventory]
#: Tells what the host's own policy allows.
PolicyReader = Callable[[], Awaitable[LocalPolicy]]

#: Tells which record of what was given to whom cannot be read.
RecordsReader = Callable[[], Awaitable[str | None]]

#: Tells which allocations the host has, without those that it was told the end of.
HoldingsReader = Callable[[], Awaitable[list[str]]]

#: Tells how the host keeps GPUs apart.
IsolationReader = Callable[[], Awaitable[GpuIsolation]]


class InventoryReporter:
    """Sends the inventory on a new link, and whenever it differs from what was sent before."""

    def __init__(
        self,
        source: GpuSource,
        *,
        presented: Presented | None = None,
        policy: PolicyReader,
        isolation: IsolationReader | None = None,
        readiness: Readiness | None = None,
        records: RecordsReader | None = None,
        holdings: HoldingsReader | None = None,
        interval: float = CHECK_INTERVAL,
    ) -> None:
        self._source = source
        self._policy = policy
        self._isolation = isolation
        self._readiness = readiness
        self._records = records
        self._holdings = holdings
        self._presented = presented
        self._interval = interval
        self._ssh = SshServerReader()

    async def run(
        self, send: Callable[[Inventory], None], *, dialled_from: str | None = None
    ) -> None:
        """Serve one connection, until cancelled."""
        sent: tuple[HostInventory, list[GpuInventory]] | None = None
        revision = 0
        while True:
            # Cleared before reading: what changes while it is read is noticed the next time.
            self._source.changed.clear()
            host, gpus = await self.read(dialled_from=dialled_from)
            if (host, gpus) != sent:
                revision += 1
                send(Inventory(revision=revision, host=host, gpus=gpus))
                sent = (host, gpus)
            await asyncio.sleep(min(_PAUSE, self._interval))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._source.changed.wait()

    async def read(
        self, *, dialled_from: str | None = None
    ) -> tuple[HostInventory, list[GpuInventory]]:
        report = await self._source.inventory()
        host = read_host(dialled_from=dialled_from)
        policy = await self._policy()
        if self._presented is not None:
            host = self._presented(host)
        else:
            makes_accounts = ACCOUNT_KEYS.name in policy.commands
            # On a thread: sshd is asked how it is configured.
            ssh = await asyncio.to_thread(
                self._ssh.read,
                dialled_from,
                login_shell=policy.account_shell if makes_accounts else None,
            )
            host = structs.replace(host, ssh=ssh)
        host = structs.replace(host, policy=policy.as_reported())
        if self._isolation is not None:
            host = structs.replace(host, gpu_isolation=await self._isolation())
        if self._records is not None:
            host = structs.replace(host, records_damaged=await self._records())
        if self._holdings is not None:
            host = structs.replace(host, allocations=await self._holdings())
        if self._readiness is not None:
            host = structs.replace(host, cleaning_obstacles=list(self._readiness.obstacles))
        return _with_driver(host, report), report.gpus


def _with_driver(host: HostInventory, report: DriverReport) -> HostInventory:
    return structs.replace(
        host,
        driver_state=report.driver_state,
        driver_message=report.message,
        driver_version=report.driver_version,
        cuda_version=report.cuda_version,
    )
