"""The allocation's GPUs: nobody's program on them, nobody's data in their memory."""

import asyncio
import pwd
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from remotegpu_agent.accounts.accounts import is_made
from remotegpu_agent.gpu_access.device_nodes import DeviceNodes
from remotegpu_agent.gpu_access.holders import holders
from remotegpu_agent.process_table import user_ids
from remotegpu_agent.reclaim.baselines import Baseline
from remotegpu_agent.reclaim.step import Deadline, Findings, Obstacle, Step
from remotegpu_agent.reclaim.tenancy import FIRST_UID, Tenancy
from remotegpu_agent.sources.source import GpuSource
from remotegpu_protocol.metrics import GpuMetrics, GpuProcess
from remotegpu_protocol.surfaces import Surface

#: Bytes that the driver itself may use on a GPU that nobody uses: context of the persistence
#: daemon, page tables, ECC's reserve where the driver counts it as used.
DRIVERS_OWN: Final = 1024**3


class Gpus(Step):
    """Processes of the account are killed before. What others have on the GPUs is a person's to judge,
    since it may be the host's own; except what the accounts of other allocations have on a shared
    host, which is in nobody's way.

    A GPU that has no memory of its own (unified memory), of which the driver tells none, is proven by
    processes: those that the driver lists, and those that have its device file.
    """

    surface = Surface.GPU_MEMORY
    action = "checked"
    timeout = 30.0

    def __init__(
        self,
        tenancy: Tenancy,
        source: GpuSource,
        baseline: Baseline,
        devices: DeviceNodes,
        is_made_by_agent: Callable[[int], bool] | None = None,
    ) -> None:
        super().__init__(tenancy)
        self._source = source
        self._baseline = baseline
        self._devices = devices
        self._is_made = is_made_by_agent or _is_made
        self._notes: dict[str, None] = {}

    def absence(self) -> str | None:
        return "The allocation had no GPUs." if self.tenancy.gpu_uuids == [] else None

    def note(self) -> str | None:
        return " ".join(self._notes) or None

    async def look(self, deadline: Deadline) -> Findings:
        if self.tenancy.gpu_uuids is None:
            raise Obstacle("This host has no record of which GPUs the allocation had.")
        self._notes.clear()
        sample = {gpu.uuid: gpu for gpu in await self._source.sample()}
        findings = Findings()
        for uuid in self.tenancy.gpu_uuids:
            gpu = sample.get(uuid)
            if gpu is None or gpu.processes is None:
                raise Obstacle(f"{uuid} cannot be read, so nobody knows what is on it.")
            neighbours = self._split(gpu, gpu.processes, findings)
            if gpu.memory_used is not None:
                self._judge_memory(uuid, gpu.memory_used, gpu.processes, neighbours, findings)
            else:
                await self._judge_holders(uuid, findings)
        return findings

    async def remove(self, deadline: Deadline) -> None:
        """Memory goes with the processes; the driver takes a moment."""

    def _split(
        self, gpu: GpuMetrics, processes: Sequence[GpuProcess], findings: Findings
    ) -> list[GpuProcess]:
        """Those of other allocations' accounts; all others are findings."""
        neighbours = []
        for process in processes:
            if self._is_neighbour(process.pid):
                neighbours.append(process)
                self._notes[
                    f"{gpu.uuid} is also used by {process.pid} of {process.username}, the account of "
                    "another allocation: this host does not keep GPUs apart."
                ] = None
            else:
                findings.add(f"{gpu.uuid}: {process.pid} ({process.name}) of {process.username}")
        return neighbours

    def _judge_memory(
        self,
        uuid: str,
        used: int,
        processes: Sequence[GpuProcess],
        neighbours: Sequence[GpuProcess],
        findings: Findings,
    ) -> None:
        if len(neighbours) < len(processes):
            return
        theirs = [process.memory_used for process in neighbours]
        if None in theirs:
            self._notes[
                f"{uuid}: proof: processes. The driver does not tell whose memory it is."
            ] = None
            return
        left = used - sum(memory or 0 for memory in theirs)
        if left > DRIVERS_OWN:
            findings.add(f"{uuid}: {left // 1024**2} MiB used by no process that the driver knows")

    async def _judge_holders(self, uuid: str, findings: Findings) -> None:
        before = self._baseline.get(uuid)
        if before is None or before.tells_memory is not False:
            raise Obstacle(
                f"The driver does not tell the memory of {uuid}, and is not known to have kept it to "
                "itself when the allocation began."
            )
        minor = self._devices.minors().get(uuid)
        device = None if minor is None else self._devices.cards().get(minor)
        if device is None:
            raise Obstacle(
                f"The driver tells neither the memory of {uuid} nor which device file is its."
            )
        for pid in await asyncio.to_thread(lambda: list(holders(device, self._is_users))):
            findings.add(f"{uuid}: {pid} has {device} open")
        self._notes[
            f"{uuid}: proof: processes. The driver does not tell its memory; it lists no process on "
            f"it, and no user's process has {device} open."
        ] = None

    def _is_users(self, pid: int) -> bool:
        """Whether it matters on whose behalf it has a device open: the driver's own daemons have every
        one open."""
        return any(uid >= FIRST_UID for uid in user_ids(pid)) and not self._is_neighbour(pid)

    def _is_neighbour(self, pid: int) -> bool:
        uids = user_ids(pid)
        return (
            bool(uids)
            and not self.tenancy.whole_machine
            and all(self._is_made(uid) and not self.tenancy.owns(uid) for uid in uids)
        )


def _is_made(uid: int) -> bool:
    """Whether it is the account of an allocation."""
    with suppress(KeyError):
        return is_made(pwd.getpwuid(uid))
    return False
