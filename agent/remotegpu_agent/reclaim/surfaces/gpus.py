"""The allocation's GPUs: nobody's program on them, nobody's data in their memory."""

from typing import Final

from remotegpu_agent.reclaim.step import Deadline, Findings, Obstacle, Step
from remotegpu_agent.reclaim.tenancy import Tenancy
from remotegpu_agent.sources.source import GpuSource
from remotegpu_protocol.metrics import GpuMetrics
from remotegpu_protocol.surfaces import Surface

#: Bytes that the driver itself may use on a GPU that nobody uses: context of the persistence
#: daemon, page tables, ECC's reserve where the driver counts it as used.
DRIVERS_OWN: Final = 1024**3


class Gpus(Step):
    """Processes of the account are killed before; whatever else is on the GPUs is a person's to
    judge, since it may be the host's own."""

    surface = Surface.GPU_MEMORY
    action = "checked"
    timeout = 30.0

    def __init__(self, tenancy: Tenancy, source: GpuSource) -> None:
        super().__init__(tenancy)
        self._source = source

    def absence(self) -> str | None:
        return "The allocation had no GPUs." if self.tenancy.gpu_uuids == [] else None

    async def look(self, deadline: Deadline) -> Findings:
        if self.tenancy.gpu_uuids is None:
            raise Obstacle("This host has no record of which GPUs the allocation had.")
        sample = {gpu.uuid: gpu for gpu in await self._source.sample()}
        findings = Findings()
        for uuid in self.tenancy.gpu_uuids:
            gpu = sample.get(uuid)
            if gpu is None or gpu.processes is None or gpu.memory_used is None:
                raise Obstacle(f"{uuid} cannot be read, so nobody knows what is on it.")
            _look_at(gpu, findings)
        return findings

    async def remove(self, deadline: Deadline) -> None:
        """Memory goes with the processes; the driver takes a moment."""


def _look_at(gpu: GpuMetrics, findings: Findings) -> None:
    for process in gpu.processes or ():
        findings.add(f"{gpu.uuid}: {process.pid} ({process.name}) of {process.username}")
    used = gpu.memory_used or 0
    if not gpu.processes and used > DRIVERS_OWN:
        findings.add(f"{gpu.uuid}: {used // 1024**2} MiB used by no process that the driver knows")
