"""What follows from a host's answers.

`apply_outcome` is called with a command that has come to its end, within the `ledger` of its machine
and the transaction that moved the command.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
import structlog

from remotegpu_core.actor import Actor, machine_actor
from remotegpu_core.models import Allocation, Command, Machine
from remotegpu_core.services import commands, operations, quarantine
from remotegpu_core.services.allocations import lifecycle
from remotegpu_core.services.allocations.accounts import KEYS_STEP, note_keys
from remotegpu_core.services.allocations.lifecycle import ALLOCATE, NOTHING_BEGUN, RELEASE
from remotegpu_core.services.allocations.proof import shortcomings
from remotegpu_core.services.allocations.starts import note_failed, note_succeeded
from remotegpu_core.services.datasets import outcomes as datasets
from remotegpu_core.services.datasets.ending import MOUNT_STEP, UNMOUNT_STEP
from remotegpu_core.services.quarantine import CauseCode
from remotegpu_core.states import AllocationState, CommandState, OperationState, StepState
from remotegpu_protocol.kinds import (
    ACCOUNT_KEYS,
    ALLOCATION_END,
    ALLOCATION_START,
    DATASET_MOUNT,
    DATASET_UNMOUNT,
    CleaningReport,
)

log = structlog.get_logger()

#: The step of its operation that each kind of command is, for whoever reports its progress.
STEP_OF: Final[Mapping[str, str]] = {
    ALLOCATION_START.name: lifecycle.START_STEP,
    ALLOCATION_END.name: lifecycle.CLEAN_STEP,
    ACCOUNT_KEYS.name: KEYS_STEP,
    DATASET_MOUNT.name: MOUNT_STEP,
    DATASET_UNMOUNT.name: UNMOUNT_STEP,
}

#: Ends of a command that its host never began.
_NOT_BEGUN: Final = frozenset({CommandState.REFUSED, CommandState.EXPIRED})


async def apply_outcome(command: Command) -> None:
    """Move the command's allocation, and its operation, to where the command's end takes them.

    Called again with a later truth: INDETERMINATE may turn into anything else.
    """
    outcome = _OUTCOMES.get(command.kind)
    if outcome is None or command.allocation_id is None:
        return
    allocation = await Allocation.get_or_none(id=command.allocation_id)
    if allocation is not None:
        await outcome(command, allocation)
    elif command.kind == ALLOCATION_END.name:
        await _ended_unknown(command)


async def _start(command: Command, allocation: Allocation) -> None:
    if allocation.state is AllocationState.PENDING:
        await _started(command, allocation)
    elif (
        allocation.state is AllocationState.RECLAIMING
        and allocation.activated_at is None
        and command.state in _NOT_BEGUN
    ):
        # It was given back meanwhile, and there is nothing to clean after all.
        await lifecycle.withdraw(allocation.id, ALLOCATION_END.name)
        await lifecycle.settle(allocation, items=NOTHING_BEGUN)
        await lifecycle.finish(allocation.id, RELEASE, OperationState.SUCCEEDED)


async def _started(command: Command, allocation: Allocation) -> None:
    error = commands.reason_of(command)
    match command.state:
        case CommandState.SUCCEEDED:
            await lifecycle.activate(allocation)
            await note_succeeded(command.machine_id)
        case CommandState.REFUSED | CommandState.EXPIRED:
            allocation.error_code, allocation.error_message = error
            await lifecycle.settle(allocation, items=NOTHING_BEGUN)
            await lifecycle.finish(allocation.id, ALLOCATE, OperationState.FAILED, error=error)
            if command.state is CommandState.REFUSED:
                await note_failed(command.machine_id, error[1])
        case CommandState.CANCELLED:
            # Its host may have begun before it was called off.
            await lifecycle.reclaim(allocation)
            await lifecycle.finish(allocation.id, ALLOCATE, OperationState.CANCELLED)
        case CommandState.FAILED | CommandState.INDETERMINATE:
            await lifecycle.reclaim(allocation, error=error)
            state = OperationState(command.state)
            await lifecycle.finish(allocation.id, ALLOCATE, state, error=error)
            await note_failed(command.machine_id, error[1])


async def _end(command: Command, allocation: Allocation) -> None:
    if allocation.state is not AllocationState.RECLAIMING:
        # An admin has overridden it meanwhile.
        return
    report = _report(command)
    if report is None:
        error = _without_report(command)
    else:
        objection = await _shortcomings(
            command, report, was_active=allocation.activated_at is not None
        )
        if objection is None:
            await lifecycle.settle(allocation, items=_items(report), simulated=report.simulated)
            await _finish(command, OperationState.SUCCEEDED)
            return
        error = objection
    await quarantine.add(
        command.machine_id,
        CauseCode.CLEANING_FAILED,
        error[1],
        actor=machine_actor(command.machine_id),
        allocation_id=allocation.id,
    )
    state = (
        OperationState.INDETERMINATE
        if command.state is CommandState.INDETERMINATE
        else OperationState.FAILED
    )
    await _finish(command, state, error)


async def _ended_unknown(command: Command) -> None:
    """Of an allocation that only the host knew, see `services.holdings`."""
    report = _report(command)
    if report is None:
        error: tuple[str, str] | None = _without_report(command)
    else:
        error = await _shortcomings(command, report, was_active=True)
    if error is not None:
        await quarantine.add(
            command.machine_id,
            CauseCode.OTHER,
            f"Allocation {command.allocation_id}, which only the host knew, was not proven clean. "
            f"{error[1]}",
            actor=machine_actor(command.machine_id),
        )


async def _shortcomings(
    command: Command, report: CleaningReport, *, was_active: bool
) -> tuple[str, str] | None:
    machine = await Machine.get(id=command.machine_id)
    policy = machine.host.get("policy") or {}
    return shortcomings(report, simulated_host=bool(policy.get("simulated")), was_active=was_active)


async def _keys(command: Command, allocation: Allocation) -> None:
    if command.state is CommandState.SUCCEEDED:
        await note_keys(allocation, None)
        await _finish(command, OperationState.SUCCEEDED, step=KEYS_STEP)
        return
    error = commands.reason_of(command)
    await note_keys(allocation, error)
    log.warning(
        "allocation.keys_not_replaced",
        allocation=str(allocation.id),
        code=error[0],
        reason=error[1],
    )
    indeterminate = command.state is CommandState.INDETERMINATE
    state = OperationState.INDETERMINATE if indeterminate else OperationState.FAILED
    await _finish(command, state, error, step=KEYS_STEP)


async def _finish(
    command: Command,
    state: OperationState,
    error: tuple[str, str] | None = None,
    *,
    step: str = lifecycle.CLEAN_STEP,
) -> None:
    """The operation that sent this very command: cleaning may have been tried before."""
    if command.operation_id is None:
        return
    end = StepState.SUCCEEDED if state is OperationState.SUCCEEDED else StepState.FAILED
    await operations.advance(command.operation_id, step, end, error=error)
    await operations.finish(command.operation_id, state, error=error)


def _items(report: CleaningReport) -> list[dict[str, Any]]:
    return [
        {
            "surface": item.surface,
            "action": item.action,
            "found": item.found,
            "removed": item.removed,
            "verified": item.verified,
            "detail": item.detail,
        }
        for item in report.items
    ]


def _report(command: Command) -> CleaningReport | None:
    if command.state is not CommandState.SUCCEEDED or command.result is None:
        return None
    return msgspec.convert(command.result, CleaningReport)


def _without_report(command: Command) -> tuple[str, str]:
    if command.state is CommandState.SUCCEEDED:
        return "NO_REPORT", "The host says that it has cleaned, and sends no report of it."
    code, message = commands.reason_of(command)
    return code, f"Cleaning ended {command.state}: {message}"


async def override_cleaning(actor: Actor, allocation: Allocation, reason: str) -> None:
    """Close what an allocation held without a proof: an admin answers for it.

    A host that comes back is told of the end all the same: whoever had it still has an account
    there, and somebody else may have the machine by then.
    """
    await lifecycle.settle(allocation, items=(), verified=False, actor=actor, reason=reason)
    error = ("OVERRIDDEN", f"An admin declared it clean: {reason}")
    await lifecycle.finish(allocation.id, RELEASE, OperationState.CANCELLED, error=error)


_OUTCOMES: Final[Mapping[str, Callable[[Command, Allocation], Awaitable[None]]]] = {
    ALLOCATION_START.name: _start,
    ALLOCATION_END.name: _end,
    ACCOUNT_KEYS.name: _keys,
    DATASET_MOUNT.name: datasets.mounted,
    DATASET_UNMOUNT.name: datasets.unmounted,
}
