"""Who is connected: epochs, and the slow way from ONLINE through UNREACHABLE to LOST."""

import uuid
from dataclasses import dataclass
from typing import Final

from tortoise.expressions import Q

from remotegpu_core.clock import credible, now_ms
from remotegpu_core.database.transactions import transaction
from remotegpu_core.models import Machine, Replica
from remotegpu_core.services import hosts
from remotegpu_core.services.changes import ChangeKind, record_change
from remotegpu_core.services.quarantine import CauseCode
from remotegpu_core.services.replicas import REPLICA_DEAD_AFTER, living_replicas
from remotegpu_core.states import Presence, sources_of
from remotegpu_protocol.limits import LOST_AFTER

#: Boots of a machine that are remembered.
_BOOTS_KEPT = 4

#: Machines whose last word is written in one transaction.
_NOTES_AT_ONCE = 500

# By hand, since thousands of these are written a minute and Tortoise takes a millisecond for each.
_NOTE_SEEN: Final = (
    "UPDATE machine SET last_seen_at = {} WHERE id = {} AND epoch = {} "
    "AND (last_seen_at IS NULL OR last_seen_at < {})"
)


@dataclass(frozen=True, slots=True)
class Connected:
    machine: Machine
    epoch: int


async def connect(
    machine_id: uuid.UUID,
    replica_id: uuid.UUID,
    *,
    agent_version: str,
    boot_id: str,
    public_key: bytes | None = None,
    address: str | None = None,
) -> Connected | None:
    """Give the machine's new connection its epoch, the next one; None when it was removed.

    Whatever older connections still say is void from this commit on. With `public_key`, the key
    that the connection was verified by, None also when the machine has another one by now: it may
    have been enrolled anew since. `address` is where the connection came from.
    """
    async with transaction():
        machine = await Machine.filter(id=machine_id).select_for_update().get_or_none()
        if machine is None:
            return None
        if public_key is not None and bytes(machine.public_key) != public_key:
            return None
        was = machine.presence
        cloned = _note_boot(machine, boot_id)
        machine.epoch += 1
        machine.replica_id = replica_id
        machine.presence = Presence.ONLINE
        machine.agent_version = agent_version
        machine.link_address = address
        machine.last_seen_at = now_ms()
        await machine.save(
            update_fields=[
                "epoch",
                "replica_id",
                "presence",
                "agent_version",
                "link_address",
                "boot_id",
                "former_boot_ids",
                "last_seen_at",
            ]
        )
        if was is not Presence.ONLINE:
            await record_change(machine_id, ChangeKind.PRESENCE_CHANGED)
        if cloned and machine.command_hold is None:
            await hosts.hold(machine_id, CauseCode.HOST_CLONED, hosts.CLONED)
    return Connected(machine, machine.epoch)


async def disconnect(machine_id: uuid.UUID, epoch: int, *, last_seen_at: int) -> bool:
    """The connection fell silent and no newer one came: UNREACHABLE. False when one came."""
    return await _move(machine_id, epoch, Presence.UNREACHABLE, last_seen_at=last_seen_at)


async def note_seen(seen: dict[uuid.UUID, tuple[int, int]]) -> None:
    """Write when machines were last heard: (epoch, milliseconds) by id, stale epochs skipped.

    A machine that was given up although its link held, because this replica could not say so in
    time, is ONLINE again. What was heard before the database's own last word revives nothing.
    """
    # In one order, so that no two replicas wait for one another, and in pieces: a transaction on
    # SQLite holds everybody up.
    notes = sorted(seen.items())
    for start in range(0, len(notes), _NOTES_AT_ONCE):
        some = dict(notes[start : start + _NOTES_AT_ONCE])
        away = await Machine.filter(
            id__in=list(some), presence__in=list(sources_of(Presence.ONLINE))
        ).values_list("id", "epoch", "last_seen_at")
        async with transaction() as client:
            sqlite = client.capabilities.dialect == "sqlite"
            await client.execute_many(
                _NOTE_SEEN.format(*("????" if sqlite else ("$1", "$2", "$3", "$4"))),
                [
                    [seen_at, str(machine_id) if sqlite else machine_id, epoch, seen_at]
                    for machine_id, (epoch, seen_at) in some.items()
                ],
            )
        for machine_id, epoch, last_seen_at in away:
            heard_under, seen_at = some[machine_id]
            if epoch == heard_under and (last_seen_at is None or last_seen_at < seen_at):
                await _move(machine_id, epoch, Presence.ONLINE)


async def revive(seen: dict[uuid.UUID, tuple[int, int]], replica_id: uuid.UUID) -> int:
    """Machines that others gave up although this replica holds their links: ONLINE again.

    `seen` as in `note_seen`. A replica that was stopped for a while does this when it wakes.
    """
    away = Machine.filter(replica_id=replica_id).exclude(presence=Presence.ONLINE)
    moved = 0
    for machine in await away.limit(500):
        epoch, seen_at = seen.get(machine.id, (-1, 0))
        if epoch == machine.epoch and seen_at > (machine.last_seen_at or 0):
            moved += await _move(machine.id, epoch, Presence.ONLINE, last_seen_at=seen_at)
    return moved


async def give_up(*, not_before: int) -> int:
    """Make machines that were UNREACHABLE for too long LOST, and return how many.

    Silence counts from `not_before` (milliseconds) at the earliest: what happened while nobody
    could have heard the machine is not held against it.
    """
    deadline = now_ms() - int(LOST_AFTER * 1000)
    if not_before > deadline:
        return 0
    silent = Machine.filter(presence=Presence.UNREACHABLE, last_seen_at__lt=deadline)
    moved = 0
    for machine in await silent.limit(500):
        moved += await _move(machine.id, machine.epoch, Presence.LOST)
    return moved


async def release_orphans(*, not_before: int) -> int:
    """Make machines UNREACHABLE whose replica died with their links, and return how many."""
    now = now_ms()
    deadline = now - REPLICA_DEAD_AFTER
    if not_before > deadline:
        return 0
    alive = await living_replicas(now).values_list("id", flat=True)
    # Only those that may be orphans: a fleet is not read every few seconds. And before the
    # replicas are looked at again: one that starts meanwhile is known by then.
    orphaned = Q(replica_id__isnull=True) | ~Q(replica_id__in=list(alive)) if alive else Q()
    online = await Machine.filter(orphaned, presence=Presence.ONLINE).values_list(
        "id", "epoch", "replica_id", "last_seen_at"
    )
    beats = {replica.id: replica.heartbeat_at for replica in await Replica.all()}
    moved = 0
    for machine_id, epoch, replica_id, last_seen_at in online:
        beat_at = beats.get(replica_id, 0)
        if beat_at > credible(now):
            beat_at = 0
        if beat_at < deadline:
            # The link held while its replica lived, whatever was last written down.
            last_seen_at = max(last_seen_at or 0, beat_at)
            moved += await _move(machine_id, epoch, Presence.UNREACHABLE, last_seen_at=last_seen_at)
    return moved


async def beat(replica_id: uuid.UUID, started_at: int) -> None:
    """Say that this replica lives, and forget those that died a day ago."""
    now = now_ms()
    if not await Replica.filter(id=replica_id).update(heartbeat_at=now):
        await Replica.create(id=replica_id, started_at=started_at, heartbeat_at=now)
        await Replica.filter(heartbeat_at__lt=now - 86_400_000).delete()


async def retire_replica(replica_id: uuid.UUID) -> None:
    """This replica ends in an orderly way."""
    await Replica.filter(id=replica_id).delete()


def _note_boot(machine: Machine, boot_id: str) -> bool:
    """Take note of the boot; True when it is one of before, which only a second host can have."""
    former = machine.former_boot_ids or []
    if machine.boot_id is not None and machine.boot_id != boot_id:
        machine.former_boot_ids = [machine.boot_id, *former][:_BOOTS_KEPT]
    machine.boot_id = boot_id
    return boot_id in former


async def _move(
    machine_id: uuid.UUID, epoch: int, to: Presence, *, last_seen_at: int | None = None
) -> bool:
    async with transaction():
        values: dict[str, object] = {"presence": to}
        if last_seen_at is not None:
            values["last_seen_at"] = last_seen_at
        moved = await Machine.filter(
            id=machine_id, epoch=epoch, presence__in=list(sources_of(to))
        ).update(**values)
        if moved:
            await record_change(machine_id, ChangeKind.PRESENCE_CHANGED)
    return bool(moved)
