"""The outbox: commands from the transaction that wants them to the journal of the host."""

import uuid
from typing import Any, Final

import msgspec
from msgspec import Struct

from remotegpu_core.clock import now_ms
from remotegpu_core.models import Command
from remotegpu_core.states import FINAL, CommandState, sources_of
from remotegpu_core.versions import Topic, bump
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.kinds import KINDS, CommandKind, pack_arguments, read_result
from remotegpu_protocol.limits import COMMAND_WINDOW

#: States in which a command is still the outbox's business: not in the host's journal for sure.
UNACCEPTED: Final = (CommandState.QUEUED, CommandState.SENT)
#: States in which the host still has something to do.
OPEN: Final = tuple(state for state in CommandState if state not in FINAL)


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


async def waiting(machine_id: uuid.UUID, *, limit: int = COMMAND_WINDOW) -> list[Command]:
    """Commands of a machine that its host has not accepted yet, in their order."""
    return (
        await Command.filter(machine_id=machine_id, state__in=list(UNACCEPTED))
        .order_by("sequence")
        .limit(limit)
    )


async def mark_sent(command_id: uuid.UUID) -> bool:
    """About to be given to a link. False when it was cancelled or expired meanwhile.

    Written before the sending: what a host may have seen is never taken for unseen.
    """
    now = now_ms()
    if await Command.filter(id=command_id, state=CommandState.QUEUED).update(
        state=CommandState.SENT, sent_at=now
    ):
        return True
    return await Command.filter(id=command_id, state=CommandState.SENT).exists()


async def move(
    command_id: uuid.UUID,
    to: CommandState,
    *,
    result: dict[str, Any] | None = None,
    error: tuple[str, str] | None = None,
) -> bool:
    """Change a command's state where the table of states allows it. `error`: code and message."""
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
    moved = await Command.filter(id=command_id, state__in=list(sources_of(to))).update(**values)
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
