"""Every GPU that a host has shown since the agent started, and what ails it."""

import time
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Final

from msgspec import structs

from remotegpu_agent.sources.nvml_wire import HungGpu, SickGpu, XidEvent
from remotegpu_agent.sources.source import unread
from remotegpu_agent.sources.xids import concerns_the_card, describe_xid
from remotegpu_protocol.inventory import GpuHealth, GpuInventory
from remotegpu_protocol.metrics import GpuMetrics

_FELL_OFF: Final = "Fell off the bus: the driver no longer lists this GPU."

#: Times its patience after which a card that hangs counts as lost, and not as slow.
_HUNG_UNHEALTHY: Final = 4

#: Different XID errors of a card that its health reason names.
_MAX_XIDS: Final = 8


class GpuRegister:
    """Remembers cards across workers and drivers, so that one that is gone is reported as
    UNHEALTHY instead of being forgotten. Cards are told apart by their UUIDs.

    A card whose driver does not come back from a call for `patience` seconds ails.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._known: dict[str, GpuInventory] = {}
        # Reading what a card is and what it does are different calls; a card is well when both
        # succeed, so one success does not wipe out the other's failure.
        self._sick_inventory: dict[str, str] = {}
        self._sick_sample: dict[str, str] = {}
        self._driver: tuple[GpuHealth, str] | None = None
        #: When the driver first did not come back, monotonic, of each card of which it has not.
        self._hung: dict[str, float] = {}
        #: XID errors that concern the card itself, oldest first; they are over when the card or
        #: its driver is set up anew.
        self._xids: dict[str, dict[str, None]] = {}

    @property
    def any_hung(self) -> bool:
        """Whether a card has been silent for longer than it may be."""
        return any(self._silence(uuid) >= self._patience for uuid in self._hung)

    @property
    def any_lost(self) -> bool:
        return bool(self._sick_inventory or self._sick_sample)

    @property
    def unreadable(self) -> Set[str]:
        """Cards that the last sample could not read."""
        return self._sick_sample.keys()

    def knows(self, uuid: str) -> bool:
        return uuid in self._known

    def take_inventory(
        self, gpus: Iterable[GpuInventory], sick: Sequence[SickGpu], hung: Sequence[HungGpu] = ()
    ) -> None:
        """Note what the driver says that the cards are; those it leaves out are lost."""
        listed = {gpu.uuid: gpu for gpu in gpus}
        reasons = {
            uuid: gpu.health_reason or gpu.health
            for uuid, gpu in listed.items()
            if gpu.health is not GpuHealth.HEALTHY
        }
        for uuid, gpu in listed.items():
            before = self._known.get(uuid)
            self._known[uuid] = _completed(gpu, before) if uuid in reasons and before else gpu
        for uuid in self._sick_inventory.keys() | self._sick_sample.keys():
            if uuid in listed and uuid not in reasons:
                self._xids.pop(uuid, None)
        silent = self._silent(hung)
        # What they were is what they are, as far as anybody knows.
        still = {uuid: why for uuid, why in self._sick_inventory.items() if uuid in silent}
        self._sick_inventory = still | reasons | self._missing(listed.keys() | silent, sick)

    def take_sample(
        self,
        samples: Iterable[GpuMetrics],
        sick: Sequence[SickGpu],
        hung: Sequence[HungGpu] = (),
    ) -> list[GpuMetrics]:
        """Note what the cards did; one sample of each known card, null for those without."""
        by_uuid = {sample.uuid: sample for sample in samples}
        silent, now = self._silent(hung), time.monotonic()
        self._hung = {uuid: self._hung.get(uuid, now) for uuid in silent}
        self._sick_sample = self._missing(by_uuid.keys() | silent, sick)
        return [by_uuid.get(gpu.uuid) or unread(gpu) for gpu in self._in_order()]

    def take_xids(self, events: Iterable[XidEvent]) -> None:
        """Note errors; those of the programs that use a card leave its health alone."""
        for event in events:
            reasons = self._xids.setdefault(event.uuid, {})
            if concerns_the_card(event.xid) and len(reasons) < _MAX_XIDS:
                reasons[describe_xid(event.xid, event.gpu_instance)] = None

    def driver_gone(self, reason: str) -> None:
        """The driver was unloaded or failed: it starts anew, and its cards with it."""
        self._xids.clear()
        self._hung.clear()
        self.driver_trouble(GpuHealth.UNHEALTHY, reason)

    def driver_trouble(self, health: GpuHealth, reason: str) -> None:
        """All cards suffer from the driver, until `driver_well`."""
        self._driver = (health, reason)

    def driver_well(self) -> None:
        self._driver = None

    def inventory(self) -> list[GpuInventory]:
        """All known cards with their health, in the order of their indices."""
        ailments = self.ailments()
        gpus = []
        for gpu in self._in_order():
            health, reason = ailments.get(gpu.uuid, (GpuHealth.HEALTHY, None))
            gpus.append(structs.replace(gpu, health=health, health_reason=reason))
        return gpus

    def ailments(self) -> Mapping[str, tuple[GpuHealth, str]]:
        """What ails each card that is not well."""
        found = {
            uuid: (GpuHealth.UNHEALTHY, reason)
            for uuid, reason in (self._sick_sample | self._sick_inventory).items()
        }
        found = {uuid: ailment for uuid in self._hung if (ailment := self._hangs(uuid))} | found
        if self._driver is not None:
            found = dict.fromkeys(self._known, self._driver) | found
        for uuid, xids in self._xids.items():
            if xids and uuid in self._known:
                health, reason = found.get(uuid, (GpuHealth.DEGRADED, ""))
                texts = [*([reason.removesuffix(".")] if reason else []), *xids]
                found[uuid] = health, f"{'; '.join(texts)}."
        return found

    def unread(self) -> list[GpuMetrics]:
        return [unread(gpu) for gpu in self._in_order()]

    def _in_order(self) -> list[GpuInventory]:
        return sorted(self._known.values(), key=lambda gpu: (gpu.index, gpu.uuid))

    def _silent(self, hung: Sequence[HungGpu]) -> set[str]:
        """UUIDs of the known cards that hang."""
        uuids = {card.uuid for card in hung}
        indices = {card.index for card in hung if card.uuid is None}
        return {uuid for uuid, gpu in self._known.items() if uuid in uuids or gpu.index in indices}

    def _silence(self, uuid: str) -> float:
        return time.monotonic() - self._hung[uuid]

    def _hangs(self, uuid: str) -> tuple[GpuHealth, str] | None:
        silence = self._silence(uuid)
        if silence < self._patience:
            return None
        lost = silence >= self._patience * _HUNG_UNHEALTHY
        # Without the time that it has lasted: the inventory would change with each second.
        return (
            GpuHealth.UNHEALTHY if lost else GpuHealth.DEGRADED,
            f"The NVIDIA driver did not answer for this GPU within {self._patience:g} s.",
        )

    def _missing(self, listed: Set[str], sick: Sequence[SickGpu]) -> dict[str, str]:
        by_uuid = {card.uuid: card.reason for card in sick if card.uuid is not None}
        # A card that does not even tell its UUID is taken for the one that had its index.
        by_index = {card.index: card.reason for card in sick if card.uuid is None}
        return {
            uuid: by_uuid.get(uuid) or by_index.get(gpu.index) or _FELL_OFF
            for uuid, gpu in self._known.items()
            if uuid not in listed
        }


def _completed(gpu: GpuInventory, before: GpuInventory) -> GpuInventory:
    """A sick card tells little about itself; what it was is known from before."""
    return structs.replace(before, index=gpu.index)
