"""What operators do with machines: name them, label them, take them out of service."""

import uuid
from collections.abc import Sequence
from typing import Any

from tortoise.exceptions import IntegrityError

from remotegpu_core.actor import Actor
from remotegpu_core.database.transactions import transaction
from remotegpu_core.errors import Conflict, InvalidInput, LimitExceeded
from remotegpu_core.models import Machine, MachineLabel
from remotegpu_core.services import audit, quarantine
from remotegpu_core.services.access import visible_machine
from remotegpu_core.services.addresses import claims
from remotegpu_core.services.addresses.quarantine import judge
from remotegpu_core.services.changes import ChangeKind, record_change
from remotegpu_core.states import Lifecycle
from remotegpu_protocol.errors import InvalidValue
from remotegpu_protocol.grammar import check_label, check_machine_name, clean_text
from remotegpu_protocol.limits import MAX_LABELS

#: Characters of a reason.
MAX_REASON = 500


async def start_maintenance(actor: Actor, machine_id: uuid.UUID, reason: str) -> Machine:
    """Take a machine out of service; what runs on it goes on, nothing new is placed.

    Raises:
        Conflict: it is quarantined or retired.
        InvalidInput: the reason is empty or too long.
    """
    return await _move(
        actor,
        "startMaintenance",
        machine_id,
        Lifecycle.MAINTENANCE,
        sources={Lifecycle.IN_SERVICE, Lifecycle.MAINTENANCE},
        reason=_reason(reason),
    )


async def end_maintenance(actor: Actor, machine_id: uuid.UUID) -> Machine:
    """Put a machine back into service, or into the quarantine that it has causes for.

    Raises Conflict when it is not in maintenance.
    """
    return await _move(
        actor,
        "endMaintenance",
        machine_id,
        # In service as soon as it has no cause, which `_move` looks at.
        Lifecycle.QUARANTINED,
        sources={Lifecycle.MAINTENANCE},
        reason=None,
    )


async def set_draining(actor: Actor, machine_id: uuid.UUID, draining: bool) -> Machine:
    """Place no new allocations on a machine, or place them again."""
    machine = await _managed(actor, machine_id)
    async with transaction():
        changed = await Machine.filter(id=machine.id, draining=not draining).update(
            draining=draining
        )
        await _record(
            actor,
            "drainMachine",
            machine,
            draining=audit.yes_or_no(draining),
            changed=audit.yes_or_no(changed),
        )
        if changed:
            await record_change(machine.id, ChangeKind.CONFIGURATION_CHANGED)
    return await Machine.get(id=machine.id)


async def rename(actor: Actor, machine_id: uuid.UUID, name: str) -> Machine:
    """Give a machine another name.

    Raises:
        InvalidInput: it does not keep the grammar.
        Conflict: another machine has it.
    """
    machine = await _managed(actor, machine_id)
    try:
        check_machine_name(name)
    except InvalidValue as error:
        raise InvalidInput(error.message, field="name") from None
    try:
        async with transaction():
            await Machine.filter(id=machine.id).update(name=name, name_key=name.lower())
            await _record(actor, "renameMachine", machine, name=name)
            await record_change(machine.id, ChangeKind.CONFIGURATION_CHANGED)
    except IntegrityError:
        raise Conflict(
            f"There is a machine {name!r} already; choose another name.", field="name"
        ) from None
    return await Machine.get(id=machine.id)


async def set_labels(
    actor: Actor, machine_id: uuid.UUID, labels: Sequence[tuple[str, str]]
) -> Machine:
    """Give a machine these labels and no others. Another site may have its addresses already.

    Raises:
        InvalidInput: a key comes twice, or a label does not keep the grammar.
        LimitExceeded: there are more than MAX_LABELS.
    """
    machine = await _managed(actor, machine_id)
    if len(labels) > MAX_LABELS:
        raise LimitExceeded(
            f"A machine has at most {MAX_LABELS} labels, got {len(labels)}.", field="labels"
        )
    checked = []
    for position, (key, value) in enumerate(labels):
        try:
            checked.append(check_label(key, value))
        except InvalidValue as error:
            raise InvalidInput(error.message, field=["labels", str(position)]) from None
    labels = checked
    if len({key for key, _ in labels}) < len(labels):
        raise InvalidInput("A label's key comes once.", field="labels")
    async with transaction():
        now = await Machine.filter(id=machine.id).select_for_update().get()
        await MachineLabel.filter(machine_id=machine.id).delete()
        await MachineLabel.bulk_create(
            MachineLabel(machine_id=machine.id, key=key, value=value) for key, value in labels
        )
        await _record(
            actor,
            "setMachineLabels",
            machine,
            labels=", ".join(f"{key}={value}" for key, value in labels),
        )
        if now.lifecycle is not Lifecycle.RETIRED and await claims.rearrange(machine.id, now.host):
            await judge(machine.id, actor)
        await record_change(machine.id, ChangeKind.CONFIGURATION_CHANGED)
    return await Machine.get(id=machine.id)


async def _managed(actor: Actor, machine_id: uuid.UUID) -> Machine:
    actor.require_admin()
    return await visible_machine(actor, machine_id, field="machineId")


async def _move(
    actor: Actor,
    action: str,
    machine_id: uuid.UUID,
    to: Lifecycle,
    *,
    sources: set[Lifecycle],
    reason: str | None,
) -> Machine:
    machine = await _managed(actor, machine_id)
    async with transaction():
        moved = await Machine.filter(id=machine.id, lifecycle__in=list(sources)).update(
            lifecycle=to, lifecycle_reason=reason
        )
        if not moved:
            now = await Machine.get(id=machine.id)
            raise Conflict(
                f"This machine is {now.lifecycle}; this takes one that is "
                f"{' or '.join(sorted(sources))}.",
                field="machineId",
            )
        details = {"reason": reason} if reason else {}
        await _record(actor, action, machine, **details)
        await quarantine.follow(machine.id)
        await record_change(machine.id, ChangeKind.LIFECYCLE_CHANGED)
    return await Machine.get(id=machine.id)


def _reason(text: str) -> str:
    cleaned = clean_text(text, MAX_REASON + 1)
    if not cleaned or len(cleaned) > MAX_REASON:
        raise InvalidInput(f"A reason has 1 to {MAX_REASON} characters.", field="reason")
    return cleaned


async def _record(actor: Actor, action: str, machine: Machine, **details: Any) -> None:
    await audit.record(
        actor,
        action,
        target=("Machine", machine.id),
        details={"machine": machine.name, **details},
    )
