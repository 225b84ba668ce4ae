"""One process's share of the fleet, as the text that a scrape gets."""

import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import structlog

from remotegpu_core.clock import now_ms
from remotegpu_core.database.failures import DATABASE_ERRORS
from remotegpu_core.exposition.family import Exposition, Field
from remotegpu_core.exposition.gpu_fields import GPU_FIELDS, GPU_INFO_FIELDS
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


class Group(StrEnum):
    """What a scrape may ask for by itself."""

    GPU = "gpu"
    HOST = "host"
    PRESENCE = "presence"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which part of everything a scrape is to have: groups, and of the machines one of `shards` equal
    parts, counted from 0."""

    groups: frozenset[Group] = frozenset(Group)
    shard: int = 0
    shards: int = 1

    def has(self, machine_id: uuid.UUID) -> bool:
        """Whether a machine is in this part: the same answer in every process."""
        return machine_id.int % self.shards == self.shard


@dataclass(frozen=True, slots=True)
class FleetText:
    """A scrape's text, and whether what it comes from was there. `chunks` makes it while it is
    read, and lets others run in between."""

    chunks: AsyncIterator[bytes]
    database_up: bool
    bus_up: bool


async def expose_fleet(
    machines: HeldMachines,
    held: Mapping[uuid.UUID, int],
    *,
    replica_id: uuid.UUID,
    started_at: int,
    choice: Choice = Choice(),
) -> FleetText:
    """The machines whose links this process holds, `held` with their epochs, and the presence of
    those that it answers for. What is away is left out of the text and told beside it."""
    turns = Turns()
    infos = Exposition(GPU_INFO_FIELDS)
    gpus, hosts = Exposition(GPU_FIELDS), Exposition(HOST_FIELDS)
    samples = Exposition(_SAMPLE_FIELDS)
    machines.forget_others(held)
    chosen = {machine_id: epoch for machine_id, epoch in held.items() if choice.has(machine_id)}
    if not choice.groups & {Group.GPU, Group.HOST}:
        chosen = {}
    async for row in machines.read(chosen):
        if Group.HOST in choice.groups:
            samples.add(row, row.labels)
            hosts.add(row.sample.metrics.host, row.labels)
        if Group.GPU in choice.groups:
            for gpu, labels in row.gpus:
                gpus.add(gpu, labels.measured)
                infos.add(gpu, labels.info)
        await turns.take()
    presence, seen = Exposition(PRESENCE_FIELDS), Exposition(SEEN_FIELDS)
    database_up = machines.database_up
    if database_up and Group.PRESENCE in choice.groups:
        try:
            async for machine in answered_for(replica_id, started_at):
                if not choice.has(machine.id):
                    continue
                for state in machine.states:
                    presence.add(state, state.labels)
                seen.add(machine.seen, machine.seen.labels)
                await turns.take()
        except DATABASE_ERRORS as error:
            log.warning("metrics.database_away", error=str(error))
            database_up = False

    async def chunks() -> AsyncIterator[bytes]:
        pause = Turns()
        for exposition in (gpus, infos, hosts, samples, presence, seen):
            for chunk in exposition.text():
                yield chunk
                await pause.take()

    return FleetText(chunks(), database_up, machines.bus_up)
