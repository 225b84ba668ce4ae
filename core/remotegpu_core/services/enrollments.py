"""Enrolment: how a host becomes a machine."""

import uuid
from collections.abc import Sequence

from tortoise.exceptions import IntegrityError

from remotegpu_core.actor import Actor, anonymous, machine_actor
from remotegpu_core.clock import now_ms
from remotegpu_core.database.transactions import transaction
from remotegpu_core.errors import (
    Conflict,
    EnrollmentRefused,
    InvalidInput,
    KeyInUse,
    NotFound,
    RemoteGPUError,
)
from remotegpu_core.models import Enrollment, Machine, MachineLabel, Outcome, RevokedKey
from remotegpu_core.paging import Order, Page, PageRequest, fetch_page
from remotegpu_core.secret import Kind, new_secret, secret_hash
from remotegpu_core.services import audit, quarantine
from remotegpu_core.services.changes import ChangeKind, record_change
from remotegpu_core.services.hardware import meet
from remotegpu_core.services.hosts import EXPECTED_JOURNAL
from remotegpu_core.services.quarantine import HOLDING
from remotegpu_core.settings import Settings
from remotegpu_core.states import Lifecycle, Presence
from remotegpu_protocol.errors import InvalidValue
from remotegpu_protocol.grammar import check_label, check_machine_name, clean_text, hardware_uuid
from remotegpu_protocol.limits import MAX_LABELS
from remotegpu_protocol.messages import Enroll

#: Revoked keys of a machine that a signature which does not fit is compared with.
_KEYS_LOOKED_AT = 16
_KEY_IN_USE = (
    "This host's key is, or was, that of another machine: a key serves one machine only. Enrol again "
    "with a new key; remotegpu-agent makes one when the same command is run again."
)
NEWEST_FIRST = Order("id", descending=True)


async def create_enrollment(
    actor: Actor,
    settings: Settings,
    *,
    machine_name: str | None,
    machine_id: uuid.UUID | None = None,
    labels: Sequence[tuple[str, str]] = (),
) -> tuple[str, Enrollment]:
    """Make a token for one host; admins only. Returns its secret, this once, with the enrolment.

    Either `machine_name` for a new machine, or `machine_id` for one that was reinstalled: its
    old key is revoked when the token is redeemed.

    Raises:
        InvalidInput: a name or label outside its grammar, or not exactly one of the two.
        Conflict: a machine has this name already.
        NotFound: there is no such machine.
    """
    actor.require_admin()
    if (machine_name is None) == (machine_id is None):
        raise InvalidInput(
            "Give machineName for a new machine, or machineId to enrol a reinstalled one again.",
            field="machineName",
        )
    checked = _check_labels(labels)
    if machine_id is not None:
        machine = await Machine.get_or_none(id=machine_id)
        if machine is None:
            raise NotFound("There is no such machine.", field="machineId")
        if machine.lifecycle is Lifecycle.RETIRED:
            raise Conflict(
                "This machine is retired for good: enrol the host as a new machine, with machineName "
                "instead of machineId.",
                field="machineId",
            )
        if checked:
            raise InvalidInput("A machine that exists keeps its labels.", field="labels")
        name = machine.name
    else:
        name = _check_name(machine_name or "")
        namesake = await Machine.get_or_none(name_key=name.lower())
        if namesake is not None and namesake.lifecycle is Lifecycle.RETIRED:
            raise Conflict(
                f"A retired machine has the name {name!r}: give that one another name with "
                "renameMachine, or choose another name for this one.",
                field="machineName",
            )
        if namesake is not None:
            raise Conflict(
                f"There is a machine {name!r} already. Give machineId instead to enrol it again "
                "after it was reinstalled.",
                field="machineName",
            )
    token, now = new_secret(Kind.ENROLLMENT), now_ms()
    async with transaction():
        enrollment = await Enrollment.create(
            token_hash=secret_hash(token),
            machine_name=name,
            labels=[list(label) for label in checked],
            machine_id=machine_id,
            replaces=machine_id is not None,
            created_by_id=actor.user_id,
            created_at=now,
            expires_at=now + settings.enrollment_lifetime * 1000,
        )
        await audit.record(
            actor,
            "createEnrollment",
            target=("Enrollment", enrollment.id),
            details={"machine": name},
        )
    return token, enrollment


async def revoke_enrollment(actor: Actor, enrollment_id: uuid.UUID) -> Enrollment:
    """Make an unused token worthless; admins only.

    Raises:
        NotFound: there is no such enrolment.
        Conflict: it was redeemed already.
    """
    actor.require_admin()
    async with transaction():
        revoked = await Enrollment.filter(
            id=enrollment_id, redeemed_at=None, revoked_at=None
        ).update(revoked_at=now_ms())
        enrollment = await Enrollment.get_or_none(id=enrollment_id)
        if enrollment is None:
            raise NotFound("There is no such enrolment.", field="id")
        if enrollment.redeemed_at is not None:
            raise Conflict(
                "The token was redeemed already: retire the machine instead.", field="id"
            )
        await audit.record(
            actor,
            "revokeEnrollment",
            target=("Enrollment", enrollment.id),
            details={"machine": enrollment.machine_name, "changed": audit.yes_or_no(revoked)},
        )
    return enrollment


async def list_enrollments(actor: Actor, request: PageRequest) -> Page[Enrollment]:
    """Enrolments, newest first; admins only."""
    actor.require_admin()
    return await fetch_page(Enrollment.all(), NEWEST_FIRST, request)


async def visible_enrollments(actor: Actor, ids: list[uuid.UUID]) -> dict[uuid.UUID, Enrollment]:
    """Of `ids`, the enrolments that the caller may see: admins all, others none."""
    if not ids or not actor.is_admin:
        return {}
    return {row.id: row for row in await Enrollment.filter(id__in=ids)}


async def revoked_keys(machine_id: uuid.UUID) -> list[bytes]:
    """Keys that the machine had, the newest first, as many as are looked at."""
    rows = RevokedKey.filter(machine_id=machine_id).order_by("-revoked_at").limit(_KEYS_LOOKED_AT)
    return [bytes(row.public_key) for row in await rows]


async def redeem(enroll: Enroll, *, source_address: str | None) -> Machine:
    """Turn a token into a machine; the signature was checked by the caller.

    Of any number of hosts that try at once, one wins. The same key may redeem again while the
    token lives, for a host that never saw the answer.

    Raises:
        EnrollmentRefused: the token is unknown, used by another host, expired or revoked.
        Conflict: the name or the hardware is registered already.
    """
    now = now_ms()
    try:
        async with transaction():
            enrollment = await Enrollment.get_or_none(token_hash=secret_hash(enroll.token))
            if enrollment is None:
                raise EnrollmentRefused("There is no such enrolment token; ask for a new one.")
            if enrollment.revoked_at is not None:
                raise EnrollmentRefused("This enrolment token was revoked; ask for a new one.")
            if enrollment.expires_at <= now:
                raise EnrollmentRefused("This enrolment token has expired; ask for a new one.")
            # Of those who come this far, the first takes the row.
            won = await Enrollment.filter(
                id=enrollment.id, redeemed_at=None, revoked_at=None, expires_at__gt=now
            ).update(redeemed_at=now, public_key=enroll.public_key)
            if not won:
                return await _redeemed_before(enrollment.id, enroll)
            machine = await _register(enrollment, enroll, now)
            await audit.record(
                machine_actor(machine.id, source_address),
                "redeemEnrollment",
                target=("Machine", machine.id),
                details={
                    "machine": machine.name,
                    "hostname": enroll.hostname,
                    "replaced_key": str(enrollment.replaces).lower(),
                },
            )
            await record_change(machine.id, ChangeKind.ENROLLED)
            return machine
    except IntegrityError as error:
        conflict = await _explain(enroll, error)
        await _record_refusal(enroll, conflict, Outcome.FAILED, source_address)
        raise conflict from None
    except EnrollmentRefused as error:
        await _record_refusal(enroll, error, Outcome.DENIED, source_address)
        raise


async def _record_refusal(
    enroll: Enroll, error: RemoteGPUError, outcome: Outcome, source_address: str | None
) -> None:
    """Write down who tried a token of ours in vain. Tokens that were made up fill no database."""
    enrollment = await Enrollment.get_or_none(token_hash=secret_hash(enroll.token))
    if enrollment is None:
        return
    await audit.record(
        anonymous(source_address),
        "redeemEnrollment",
        target=("Enrollment", enrollment.id),
        outcome=outcome,
        details={
            "machine": enrollment.machine_name,
            "hostname": enroll.hostname,
            "code": error.code,
        },
    )
    error.audited = True


async def _redeemed_before(enrollment_id: uuid.UUID, enroll: Enroll) -> Machine:
    enrollment = await Enrollment.get(id=enrollment_id)
    if enrollment.revoked_at is not None:
        raise EnrollmentRefused("This enrolment token was revoked; ask for a new one.")
    if enrollment.machine_id is not None:
        machine = await Machine.get(id=enrollment.machine_id)
        # The machine's key and not only the token's: it may have been enrolled anew since.
        if enroll.public_key == bytes(enrollment.public_key or b"") == bytes(machine.public_key):
            return machine
    raise EnrollmentRefused(
        "This enrolment token was used already, by another host; ask for a new one."
    )


async def _register(enrollment: Enrollment, enroll: Enroll, now: int) -> Machine:
    hardware = hardware_uuid(enroll.hardware_uuid)
    version = clean_text(enroll.agent_version)
    await _check_key(enroll.public_key, enrollment.machine_id)
    if enrollment.replaces and enrollment.machine_id is not None:
        machine = await Machine.filter(id=enrollment.machine_id).select_for_update().get()
        if machine.lifecycle is Lifecycle.RETIRED:
            raise EnrollmentRefused(
                "The machine of this enrolment token was retired meanwhile; ask for a token of a new "
                "machine."
            )
        await _revoke_key(machine, enroll.public_key, now)
        machine.public_key = enroll.public_key
        if machine.hardware_uuid != hardware:
            machine.hardware_uuid = None
        machine.agent_version = version
        # A connection that the old key opened is over; its end will not be told under this epoch.
        machine.epoch += 1
        machine.replica_id = None
        # A host that was made anew has another journal, and is accepted with it.
        machine.journal_id = EXPECTED_JOURNAL
        machine.offered_journal_id = machine.offered_acknowledged = None
        machine.former_boot_ids = None
        was_online = machine.presence is Presence.ONLINE
        if was_online:
            machine.presence = Presence.UNREACHABLE
        await machine.save(
            update_fields=[
                "public_key",
                "hardware_uuid",
                "agent_version",
                "epoch",
                "replica_id",
                "journal_id",
                "offered_journal_id",
                "offered_acknowledged",
                "former_boot_ids",
                "presence",
            ]
        )
        if was_online:
            await record_change(machine.id, ChangeKind.PRESENCE_CHANGED)
        await quarantine.lift(machine.id, HOLDING, actor=machine_actor(machine.id))
        await meet(machine, hardware)
        return machine
    machine = await Machine.create(
        name=enrollment.machine_name,
        name_key=enrollment.machine_name.lower(),
        public_key=enroll.public_key,
        agent_version=version,
        lifecycle=Lifecycle.IN_SERVICE,
        created_at=now,
    )
    for key, value in enrollment.labels:
        await MachineLabel.create(machine=machine, key=key, value=value)
    await Enrollment.filter(id=enrollment.id).update(machine_id=machine.id)
    await meet(machine, hardware)
    return machine


async def _check_key(public_key: bytes, machine_id: uuid.UUID | None) -> None:
    """A key is one machine's, and none's after it was revoked."""
    others = Machine.filter(public_key=public_key)
    if machine_id is not None:
        others = others.exclude(id=machine_id)
    if await others.exists() or await RevokedKey.filter(public_key=public_key).exists():
        raise KeyInUse(_KEY_IN_USE)


async def _revoke_key(machine: Machine, new_key: bytes, now: int) -> None:
    """Remember the key that a machine had, so that a host that still has it is told so."""
    if bytes(machine.public_key) == new_key:
        return
    await RevokedKey.create(
        machine_id=machine.id, public_key=bytes(machine.public_key), revoked_at=now
    )


async def _explain(enroll: Enroll, error: IntegrityError) -> RemoteGPUError:
    enrollment = await Enrollment.get_or_none(token_hash=secret_hash(enroll.token))
    if enrollment is not None and await Machine.exists(name_key=enrollment.machine_name.lower()):
        return Conflict(
            f"A machine named {enrollment.machine_name!r} was enrolled in the meantime; create "
            "an enrolment with another name."
        )
    if await Machine.filter(public_key=enroll.public_key).exists():
        return KeyInUse(_KEY_IN_USE)
    return Conflict(f"The host collides with a machine that exists: {error}.")


def _check_name(name: str) -> str:
    try:
        return check_machine_name(name)
    except InvalidValue as error:
        raise InvalidInput(error.message, field="machineName") from None


def _check_labels(labels: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    if len(labels) > MAX_LABELS:
        raise InvalidInput(
            f"A machine has at most {MAX_LABELS} labels, got {len(labels)}.", field="labels"
        )
    try:
        checked = [check_label(key, value) for key, value in labels]
    except InvalidValue as error:
        raise InvalidInput(error.message, field="labels") from None
    if len({key for key, _ in checked}) < len(checked):
        raise InvalidInput("A label key is given twice.", field="labels")
    return checked
