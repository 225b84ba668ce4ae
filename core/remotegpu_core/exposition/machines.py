"""The machines that one process holds the links of, with what labels say about them."""

import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from remotegpu_core.bus.bus import Bus
from remotegpu_core.bus.samples import Sample
from remotegpu_core.clock import credible, now_ms
from remotegpu_core.database.failures import DATABASE_ERRORS
from remotegpu_core.exposition.family import label_set
from remotegpu_core.exposition.turns import Turns
from remotegpu_core.models import Gpu, Machine
from remotegpu_protocol.metrics import GpuMetrics

log = structlog.get_logger()

#: Milliseconds after which a sample is history.
MAX_AGE: Final = 120_000

#: Machines read in one go, so that no answer takes long to take apart.
_AT_ONCE: Final = 25


@dataclass(frozen=True, slots=True)
class GpuLabels:
    """Ready `label_set`s: of what is measured, and of what the GPU is."""

    measured: str
    info: str


@dataclass(frozen=True, slots=True)
class MachineRow:
    """A machine and its newest sample. `labels` is a ready `label_set`, those of GPUs are by UUID."""

    labels: str
    gpu_labels: Mapping[str, GpuLabels]
    sample: Sample

    @property
    def gpus(self) -> Iterator[tuple[GpuMetrics, GpuLabels]]:
        """The GPUs that are registered in this machine, each once, whatever the host claims."""
        shown: set[str] = set()
        for gpu in self.sample.metrics.gpus:
            labels = self.gpu_labels.get(gpu.uuid)
            # Compared as shown: UUIDs that differ in what cleaning takes away look the same.
            if labels is not None and labels.measured not in shown:
                shown.add(labels.measured)
                yield gpu, labels


@dataclass(frozen=True, slots=True)
class _Description:
    labels: str
    gpu_labels: Mapping[str, GpuLabels]


@dataclass(eq=False)
class HeldMachines:
    """Reads machines for one process after another scrape; remembers names while the database is
    away, so that measuring goes on."""

    bus: Bus
    #: Whether each answered when it was last asked.
    database_up: bool = field(default=True, init=False)
    bus_up: bool = field(default=True, init=False)
    _known: dict[uuid.UUID, _Description] = field(default_factory=dict, init=False)

    def forget_others(self, held: Mapping[uuid.UUID, int]) -> None:
        """Forget the names of machines whose links are elsewhere now."""
        self._known = {key: value for key, value in self._known.items() if key in held}

    async def read(self, held: Mapping[uuid.UUID, int]) -> AsyncIterator[MachineRow]:
        """Rows of the machines `held`, given with the epochs of their links.

        A sample of another epoch is some other process's to expose, one that is too old nobody's.
        """
        ids = sorted(held)
        self.database_up = self.bus_up = True
        turns = Turns()
        for start in range(0, len(ids), _AT_ONCE):
            chunk = ids[start : start + _AT_ONCE]
            live = await self.bus.live(chunk)
            if not live:
                self.bus_up = False
                return
            await self._describe(chunk)
            now = now_ms()
            oldest, newest = now - MAX_AGE, credible(now)
            for machine_id in chunk:
                sample, known = live[machine_id].sample, self._known.get(machine_id)
                if sample is None or known is None or sample.epoch != held[machine_id]:
                    continue
                if oldest <= sample.sampled_at <= newest:
                    yield MachineRow(known.labels, known.gpu_labels, sample)
                await turns.take()

    async def _describe(self, ids: Sequence[uuid.UUID]) -> None:
        if not self.database_up:
            # Asked a moment ago in this very scrape.
            return
        try:
            machines = await Machine.filter(id__in=list(ids)).values_list("id", "name", "host")
            gpus = await Gpu.filter(machine_id__in=list(ids), removed_at=None).values_list(
                "machine_id", "uuid", "index", "model", "details"
            )
        except DATABASE_ERRORS as error:
            log.warning("metrics.database_away", error=str(error))
            self.database_up = False
            return
        cards: dict[uuid.UUID, list[tuple[str, int, str, dict[str, Any]]]] = {i: [] for i in ids}
        for machine_id, *card in gpus:
            cards[machine_id].append((card[0], card[1], card[2], card[3]))
        for machine_id, name, host in machines:
            self._known[machine_id] = _describe(name, host, cards[machine_id])


def _describe(
    name: str, host: Mapping[str, Any], cards: Sequence[tuple[str, int, str, Mapping[str, Any]]]
) -> _Description:
    machine = {"machine": name, "Hostname": host.get("hostname") or name}
    gpu_labels = {}
    for card_uuid, index, model, details in cards:
        # What boards and rules for the exporter select and group by, and nothing that stays the
        # same for as long as the card is in its slot: that would be most of a scrape's bytes.
        measured = {"gpu": str(index), "UUID": card_uuid, **machine}
        info = {
            **measured,
            "device": f"nvidia{index}",
            "modelName": model,
            "pci_bus_id": details.get("pci_bus_id") or "",
            "DCGM_FI_DRIVER_VERSION": host.get("driver_version") or "",
        }
        gpu_labels[card_uuid] = GpuLabels(label_set(measured), label_set(info))
    return _Description(label_set(machine), gpu_labels)
