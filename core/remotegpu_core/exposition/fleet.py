"""One process's share of the fleet, as the text that a scrape gets."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from remotegpu_core.clock import now_ms
from remotegpu_core.database.failures import DATABASE_ERRORS
from remotegpu_core.exposition.family import Exposition, Field
from remotegpu_core.exposition.gpu_fields import GPU_FIELDS
from remotegpu_core.exposition.host_fields import HOST_FIELDS
from remotegpu_core.exposition.machines import HeldMachines, MachineRow
from remotegpu_core.exposition.presence import PRESENCE_FIELDS, SEEN_FIELDS, answered_for
from remotegpu_core.exposition.turns import Turns

log = structlog.get_logger()

_SAMPLE_FIELDS: Final[tuple[Field[MachineRow], ...]] = (
    Field(
        "remotegpu_sample_age_seconds",
        "gauge",
        "Time since the machine's newest sample was taken.",
        lambda row: max(now_ms() - row.sample.sampled_at, 0) / 1000,
    ),
)


@dataclass(frozen=True, slots=True)
class FleetText:
    """A scrape's chunks, and whether what they came from was there."""

    chunks: tuple[bytes, ...]
    database_up: bool
    bus_up: bool


async def expose_fleet(
    machines: HeldMachines,
    held: Mapping[uuid.UUID, int],
    *,
    replica_id: uuid.UUID,
    started_at: int,
) -> FleetText:
    """The machines whose links this process holds, `held` with their epochs, and the presence of
    those that it answers for. What is away is left out of the text and told beside it."""
    turns = Turns()
    gpus, hosts = Exposition(GPU_FIELDS), Exposition(HOST_FIELDS)
    samples = Exposition(_SAMPLE_FIELDS)
    async for row in machines.read(held):
        samples.add(row, row.labels)
        hosts.add(row.sample.metrics.host, row.labels)
        for gpu, labels in row.gpus:
            gpus.add(gpu, labels)
        await turns.take()
    presence, seen = Exposition(PRESENCE_FIELDS), Exposition(SEEN_FIELDS)
    database_up = machines.database_up
    if database_up:
        try:
            async for machine in answered_for(replica_id, started_at):
                for state in machine.states:
                    presence.add(state, state.labels)
                seen.add(machine.seen, machine.seen.labels)
                await turns.take()
        except DATABASE_ERRORS as error:
            log.warning("metrics.database_away", error=str(error))
            database_up = False
    chunks = []
    for exposition in (gpus, hosts, samples, presence, seen):
        for chunk in exposition.text():
            chunks.append(chunk)
            await turns.take()
    return FleetText(tuple(chunks), database_up, machines.bus_up)
