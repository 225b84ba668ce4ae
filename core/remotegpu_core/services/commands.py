"""The outbox: commands from the transaction that wants them to the journal of the host."""

import uuid
from collections.abc import Collection, Sequence
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from remotegpu_core.clock import now_ms
from remotegpu_core.database.transactions import transaction
from remotegpu_core.models import Command, Machine
from remotegpu_core.states import FINAL, CommandState, Presence, sources_of
from remotegpu_core.versions import Topic, bump
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.kinds import KINDS, CommandKind, pack_arguments, read_result

#: States in which a command is still the outbox's business: not in the host's journal for sure.
UNACCEPTED: Final = (CommandState.QUEUED, CommandState.SENT)
#: Commands that are read at once.
BATCH: Final = 1000
#: States in which the host still has something to do.
OPEN: Final = tuple(state for state in CommandState if state not in FINAL)

#: How a command ended, for people, where its host gave no reason.
_UNEXPLAINED: Final = {
    CommandState.FAILED: "The host could not do it, and gave no reason.",
    CommandState.REFUSED: "The host refused it, and gave no reason.",
    CommandState.EXPIRED: "The host did not begin it before its deadline.",
    CommandState.CANCELLED: "It was cancelled before it was done.",
    CommandState.INDETERMINATE: "The host cannot tell whether it was done.",
}


def reason_of(command: Command) -> tuple[str, str]:
    """Code and text of why a command did not succeed."""
    state = CommandState(command.state)
    told = command.error_message or _UNEXPLAINED.get(state, f"It ended {state}.")
    return command.error_code or str(state), told


async def enqueue(
    kind: CommandKind,
    arguments: Struct,
    *,
    machine_id: uuid.UUID,
    deadline: int,
    allocation_id: uuid.UUID | None = None,
    generation: int = 0,
    operation_id: uuid.UUID | None = None,
) -> Command:
    """Write a command within the current transaction (a `ledger`).

    `deadline` in milliseconds since the Unix epoch. Nudge the bus after the commit: the replica
    that holds the machine's link sends it then, or within a second without a nudge.

    Raises:
        InvalidMessage: the arguments are not what the kind takes.
    """
    pack_arguments(kind, arguments)
    return await Command.create(
        machine_id=machine_id,
        kind=kind.name,
        arguments=msgspec.to_builtins(arguments),
        deadline=deadline,
        allocation_id=allocation_id,
        generation=generation,
        operation_id=operation_id,
        created_at=now_ms(),
        sequence=await bump(Topic.COMMANDS),
    )


async def waiting_for(
    replica_id: uuid.UUID,
    *,
    full: Collection[uuid.UUID] = (),
    underway: Collection[uuid.UUID] = (),
) -> list[Command]:
    """Up to BATCH commands of hosts linked to this replica that they have not accepted, in order.

    Hosts that are held get none, nor those without a journal, nor the machines in `full`; the
    commands in `underway` are left out.
    """
    query = Command.filter(
        state__in=list(UNACCEPTED),
        machine__replica_id=replica_id,
        machine__presence=Presence.ONLINE,
        machine__command_hold=None,
        machine__journal_id__not_isnull=True,
    )
    if full:
        query = query.exclude(machine_id__in=list(full))
    if underway:
        query = query.exclude(id__in=list(underway))
    return await query.order_by("sequence").limit(BATCH)


async def epochs_of(machine_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, int]:
    """The newest connection of each of these machines."""
    rows = await Machine.filter(id__in=list(machine_ids)).values_list("id", "epoch")
    return dict(cast("list[tuple[uuid.UUID, int]]", rows))


async def mark_sent(command_ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """About to be given to their links: those that were not cancelled or expired meanwhile.

    Written before the sending: what a host may have seen is never taken for unseen.
    """
    chosen = Command.filter(id__in=list(command_ids))
    async with transaction():
        await chosen.filter(state=CommandState.QUEUED).update(
            state=CommandState.SENT, sent_at=now_ms()
        )
        alive = await chosen.filter(state=CommandState.SENT).values_list("id", flat=True)
    return set(cast("list[uuid.UUID]", alive))


async def cancels_for(
    replica_id: uuid.UUID, *, limit: int = 1000
) -> list[tuple[uuid.UUID, uuid.UUID]]:
    """Commands that are to be stopped, with their machines, of hosts linked to this replica."""
    rows = (
        await Command.filter(
            cancel_requested_at__not_isnull=True,
            state__in=[CommandState.SENT, CommandState.ACCEPTED, CommandState.RUNNING],
            machine__replica_id=replica_id,
        )
        .order_by("sequence")
        .limit(limit)
        .values_list("id", "machine_id")
    )
    return cast("list[tuple[uuid.UUID, uuid.UUID]]", rows)


async def prune(older_than: int) -> int:
    """Forget commands that ended before `older_than` (milliseconds), and return how many."""
    return await Command.filter(finished_at__lt=older_than).delete()


async def move(
    command_id: uuid.UUID,
    to: CommandState,
    *,
    result: dict[str, Any] | None = None,
    error: tuple[str, str] | None = None,
    unsent: bool = False,
) -> bool:
    """Change a command's state where the table of states allows it. `error`: code and message.

    `unsent`: only if no link was given it yet, which may have changed since it was read.
    """
    now = now_ms()
    values: dict[str, Any] = {"state": to}
    if to is CommandState.ACCEPTED:
        values["accepted_at"] = now
    if to in FINAL:
        values |= {"finished_at": now, "result": result}
        values |= {
            "error_code": error[0] if error else None,
            "error_message": clean_text(error[1], 2000) if error else None,
        }
    sources = [CommandState.QUEUED] if unsent else list(sources_of(to))
    moved = await Command.filter(id=command_id, state__in=sources).update(**values)
    return bool(moved)


def to_wire(command: Command) -> bytes:
    """The arguments as the message carries them."""
    kind = KINDS[command.kind]
    return pack_arguments(kind, msgspec.convert(command.arguments, kind.arguments))


def read_wire_result(command: Command, packed: bytes | None) -> dict[str, Any] | None:
    """A host's result as it is stored; raises InvalidMessage when it is not of the kind's shape."""
    if packed is None:
        return None
    found: dict[str, Any] = msgspec.to_builtins(read_result(KINDS[command.kind], packed))
    return found
