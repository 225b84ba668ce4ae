"""What the allocation's GPUs are set to: as before it, for whoever comes next."""

from typing import Final

from remotegpu_agent.reclaim.baselines import Baseline
from remotegpu_agent.reclaim.step import Deadline, Findings, Obstacle, Step
from remotegpu_agent.reclaim.tenancy import Tenancy
from remotegpu_agent.sources.settings import (
    RestoreRequest,
    SettingsReply,
    SettingsRequest,
    Tuning,
    UnlockRequest,
    absent,
    differences,
)
from remotegpu_agent.sources.source import GpuSource
from remotegpu_protocol.surfaces import Surface

_UNRECORDED: Final = "This host has no record of which GPUs the allocation had."


class _Tuned(Step):
    timeout = 45.0

    def __init__(self, tenancy: Tenancy, source: GpuSource, baseline: Baseline) -> None:
        super().__init__(tenancy)
        self._source = source
        self._baseline = baseline
        self._uuids = tenancy.gpu_uuids or []

    def absence(self) -> str | None:
        return "The allocation had no GPUs." if self.tenancy.gpu_uuids == [] else None

    async def _ask(self, request: Tuning) -> SettingsReply:
        if self.tenancy.gpu_uuids is None:
            raise Obstacle(_UNRECORDED)
        reply = await self._source.tune(request)
        if reply.failed:
            raise Obstacle(" ".join(f"{uuid}: {why}." for uuid, why in reply.failed.items()))
        return reply


class GpuSettings(_Tuned):
    """Persistence, compute mode, power limit, application clocks and MIG."""

    surface = Surface.GPU_SETTINGS
    action = "restored"

    def __init__(self, tenancy: Tenancy, source: GpuSource, baseline: Baseline) -> None:
        super().__init__(tenancy, source, baseline)
        self._without: dict[str, list[str]] = {}

    async def look(self, deadline: Deadline) -> Findings:
        reply = await self._ask(SettingsRequest(self._uuids))
        findings = Findings()
        for uuid in self._uuids:
            wanted = self._baseline.get(uuid)
            if wanted is None:
                raise Obstacle(
                    f"What {uuid} was set to before the allocation is not known: the policy did "
                    "not say cleaning = true then, or the agent was an older one. Look at it."
                )
            for difference in differences(wanted, reply.settings[uuid]):
                findings.add(f"{uuid}: {difference}")
            self._without[uuid] = absent(wanted)
        return findings

    async def remove(self, deadline: Deadline) -> None:
        known = {uuid: self._baseline[uuid] for uuid in self._uuids if uuid in self._baseline}
        await self._ask(RestoreRequest(known))

    def note(self) -> str | None:
        texts = [
            f"{uuid} tells no {', '.join(names)}." for uuid, names in self._without.items() if names
        ]
        return " ".join(texts) or None


class ClockLocks(_Tuned):
    """No call reads the locks of clocks, so they are lifted once, and counted as found."""

    surface = Surface.GPU_CLOCK_LOCKS
    action = "lifted"

    def __init__(self, tenancy: Tenancy, source: GpuSource, baseline: Baseline) -> None:
        super().__init__(tenancy, source, baseline)
        self._lifted = False
        self._without: list[str] = []

    async def look(self, deadline: Deadline) -> Findings:
        if self.tenancy.gpu_uuids is None:
            raise Obstacle(_UNRECORDED)
        findings = Findings()
        for uuid in () if self._lifted else self._uuids:
            findings.add(f"{uuid}: clocks that may be locked")
        return findings

    async def remove(self, deadline: Deadline) -> None:
        self._without = (await self._ask(UnlockRequest(self._uuids))).without
        self._lifted = True

    def note(self) -> str | None:
        texts = [f"{uuid} has none." for uuid in self._without]
        return " ".join(texts) or None
