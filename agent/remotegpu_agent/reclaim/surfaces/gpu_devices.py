"""Who may open the device files of GPUs."""

from remotegpu_agent.gpu_access.access import GpuAccess
from remotegpu_agent.reclaim.step import Deadline, Findings, Step
from remotegpu_agent.reclaim.tenancy import Tenancy
from remotegpu_protocol.surfaces import Surface


class DevicePermissions(Step):
    """The account's name in their access control lists, whatever the host's policy says by now:
    its user id will be somebody else's."""

    surface = Surface.GPU_DEVICES
    timeout = 30.0

    def __init__(self, tenancy: Tenancy, access: GpuAccess) -> None:
        super().__init__(tenancy)
        self._access = access

    def absence(self) -> str | None:
        nothing = next(self._access.devices.everything(), None) is None
        return "This host has no device files of GPUs." if nothing else None

    async def look(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for path in await self._access.entries(self.tenancy):
            findings.add(path)
        return findings

    async def remove(self, deadline: Deadline) -> None:
        await self._access.take_back(self.tenancy)
