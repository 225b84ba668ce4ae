"""Every GPU that a host has shown since the agent started, and what ails it."""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import structs

from remotegpu_agent.sources.nvml_wire import SickGpu
from remotegpu_agent.sources.source import unread
from remotegpu_protocol.inventory import GpuHealth, GpuInventory
from remotegpu_protocol.metrics import GpuMetrics

_FELL_OFF = "Fell off the bus: the driver no longer lists this GPU."


class GpuRegister:
    """Remembers cards across workers and drivers, so that one that is gone is reported as
    UNHEALTHY instead of being forgotten. Cards are told apart by their UUIDs."""

    def __init__(self) -> None:
        self._known: dict[str, GpuInventory] = {}
        # Reading what a card is and what it does are different calls; a card is well when both
        # succeed, so one success does not wipe out the other's failure.
        self._sick_inventory: dict[str, str] = {}
        self._sick_sample: dict[str, str] = {}
        self._driver: tuple[GpuHealth, str] | None = None

    @property
    def any_lost(self) -> bool:
        return bool(self._sick_inventory or self._sick_sample)

    def knows(self, uuid: str) -> bool:
        return uuid in self._known

    def take_inventory(self, gpus: Iterable[GpuInventory], sick: Sequence[SickGpu]) -> None:
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
        self._sick_inventory = reasons | self._missing(listed, sick)

    def take_sample(
        self, samples: Iterable[GpuMetrics], sick: Sequence[SickGpu]
    ) -> list[GpuMetrics]:
        """Note what the cards did; one sample of each known card, null for those without."""
        by_uuid = {sample.uuid: sample for sample in samples}
        self._sick_sample = self._missing(by_uuid, sick)
        return [by_uuid.get(gpu.uuid) or unread(gpu) for gpu in self._in_order()]

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
        if self._driver is not None:
            found = dict.fromkeys(self._known, self._driver) | found
        return found

    def unread(self) -> list[GpuMetrics]:
        return [unread(gpu) for gpu in self._in_order()]

    def _in_order(self) -> list[GpuInventory]:
        return sorted(self._known.values(), key=lambda gpu: (gpu.index, gpu.uuid))

    def _missing(self, listed: Mapping[str, object], sick: Sequence[SickGpu]) -> dict[str, str]:
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
