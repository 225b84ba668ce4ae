"""Hardware UUIDs, which firmware is to give each host once, and which some firmware gives to many.

A machine is its key. That another machine has its host's hardware UUID needs an admin's consent, once.
"""

from remotegpu_core.actor import machine_actor
from remotegpu_core.clock import now_ms
from remotegpu_core.models import Machine
from remotegpu_core.services import quarantine
from remotegpu_core.services.quarantine import CauseCode


async def meet(machine: Machine, reported: str | None) -> str | None:
    """Note what a machine's host reports, within a transaction that has locked its row.

    Returns what is wrong with it: another machine has it and no admin has allowed that. The machine is
    kept out of use then.
    """
    if reported is None:
        # Firmware that could not be read says nothing else, and takes back no consent.
        return None
    if reported == machine.hardware_uuid:
        claimed = None
    elif await Machine.filter(hardware_uuid=reported).exclude(id=machine.id).exists():
        claimed = reported
    else:
        claimed = None
        machine.hardware_uuid = reported
        await machine.save(update_fields=["hardware_uuid"])
    if claimed != machine.claimed_hardware_uuid:
        # What was allowed was that very UUID.
        machine.claimed_hardware_uuid, machine.hardware_accepted_at = claimed, None
        await machine.save(update_fields=["claimed_hardware_uuid", "hardware_accepted_at"])
    if claimed is None:
        await quarantine.lift(
            machine.id, [CauseCode.HARDWARE_CONFLICT], actor=machine_actor(machine.id)
        )
        return None
    if machine.hardware_accepted_at is not None:
        return None
    text = (
        f"Another machine has this host's hardware UUID {claimed}: the host was enrolled twice or "
        "cloned, or the firmware of several hosts has one UUID."
    )
    await quarantine.add(
        machine.id, CauseCode.HARDWARE_CONFLICT, text, actor=machine_actor(machine.id)
    )
    return text


async def accept(machine: Machine) -> None:
    """Allow what its host claims, within a transaction that has locked its row."""
    if machine.claimed_hardware_uuid is not None:
        await Machine.filter(id=machine.id).update(hardware_accepted_at=now_ms())
