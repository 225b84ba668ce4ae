"""What hosts tell of their commands, applied once and in order."""

import uuid
from dataclasses import dataclass

import structlog

from remotegpu_core.clock import now_ms
from remotegpu_core.models import Command, Machine, OperationStep
from remotegpu_core.services import commands, freeze, journals, operations
from remotegpu_core.services.allocations.outcomes import apply_outcome
from remotegpu_core.services.ledger import ledger
from remotegpu_core.states import FINAL, CommandState, StepState
from remotegpu_protocol.commands import Event, EventState
from remotegpu_protocol.errors import InvalidMessage
from remotegpu_protocol.kinds import DATASET_MOUNT, DATASET_UNMOUNT

log = structlog.get_logger()

#: Commands whose host may say where a dataset lies, which not everybody is told who follows them.
_WITHOUT_DETAIL = (DATASET_MOUNT.name, DATASET_UNMOUNT.name)
#: Commands whose time ran out before they were sent, ended in one round.
_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Applied:
    """`stale`: a newer connection exists. `acknowledge`: the last event that is applied, None
    while the host is held."""

    acknowledge: int | None = None
    stale: bool = False
    #: Whether the command is no longer on its way: there is room for another.
    settled: bool = False


async def apply_event(
    machine_id: uuid.UUID, epoch: int, event: Event, *, first_of: int | None = None
) -> Applied:
    """Make an event of the connection `epoch` come true, all of it or nothing.

    One that came before is acknowledged again and changes nothing. One that follows a gap waits:
    what is missing was dropped, or could not be applied, and an acknowledgement would cover it. It
    all comes again.

    `first_of` is given with the first event of a connection whose hello did not say what was
    acknowledged: the last sequence in its journal. The host has nothing older than that event. Of a
    journal of which nothing was applied it is the first; else the database has lost what it had
    acknowledged, and the host is held.
    """
    async with ledger(machine_id) as machine:
        if machine is None or machine.epoch != epoch:
            return Applied(stale=True)
        if machine.command_hold is not None:
            # Which host this is, and which journal, is what an admin is to find out first. The
            # host keeps what is not acknowledged.
            return Applied()
        if event.sequence <= machine.event_sequence:
            return Applied(machine.event_sequence)
        if event.sequence != machine.event_sequence + 1:
            if first_of is None:
                return Applied(machine.event_sequence)
            log.warning(
                "agent.events_missing",
                machine=machine.name,
                expected=machine.event_sequence + 1,
                got=event.sequence,
            )
            if machine.event_sequence or event.sequence > first_of + 1:
                await journals.hold_for_gap(machine_id)
                return Applied()
        await Machine.filter(id=machine_id).update(event_sequence=event.sequence)
        command = await _command(machine_id, event.command_id)
        if command is None:
            # Pruned, or made up by the host: it speaks for nobody but itself.
            log.warning("agent.unknown_command", machine=machine.name, command=event.command_id)
        else:
            await _apply(command, event)
    return Applied(event.sequence, settled=True)


async def expire_unsent() -> int:
    """End commands whose deadline passed before any link took them; return how many."""
    if await freeze.is_clock_doubted():
        return 0
    late = Command.filter(state=CommandState.QUEUED, deadline__lt=now_ms())
    ended = 0
    for command in await late.order_by("sequence").limit(_AT_ONCE):
        async with ledger(command.machine_id):
            error = ("EXPIRED", "The host was not there before the deadline.")
            if await commands.move(command.id, CommandState.EXPIRED, error=error, unsent=True):
                await apply_outcome(await Command.get(id=command.id))
                ended += 1
    return ended


async def _command(machine_id: uuid.UUID, given: str) -> Command | None:
    try:
        command_id = uuid.UUID(given)
    except ValueError:
        return None
    return await Command.get_or_none(id=command_id, machine_id=machine_id)


async def _apply(command: Command, event: Event) -> None:
    state, error = CommandState(event.state), _error(event)
    result = None
    if event.state is EventState.SUCCEEDED:
        try:
            result = commands.read_wire_result(command, event.result)
        except InvalidMessage as invalid:
            state, error = CommandState.FAILED, ("INVALID_RESULT", invalid.message)
    moved = await commands.move(command.id, state, result=result, error=error)
    if state not in FINAL:
        await _report(command, event)
    elif moved:
        await apply_outcome(await Command.get(id=command.id))


async def _report(command: Command, event: Event) -> None:
    """Progress, on the step of its operation that the command is."""
    if command.operation_id is None or event.state is not EventState.RUNNING:
        return
    steps = OperationStep.filter(operation_id=command.operation_id)
    step = (
        await steps.filter(state__in=[StepState.PENDING, StepState.RUNNING])
        .order_by("position")
        .first()
    )
    if step is None:
        return
    told = (event.step, None if command.kind in _WITHOUT_DETAIL else event.detail)
    detail = ": ".join(part for part in told if part) or None
    await operations.advance(
        command.operation_id, step.name, StepState.RUNNING, detail=detail, progress=event.progress
    )


def _error(event: Event) -> tuple[str, str] | None:
    if event.error_code is None and event.error_message is None:
        return None
    return event.error_code or str(event.state), event.error_message or ""
