import asyncio
import uuid
from typing import Any

import pytest
from tortoise.exceptions import IntegrityError

from remotegpu_core.actor import Actor, ActorKind, anonymous
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import (
    Conflict,
    EnrollmentRefused,
    Forbidden,
    InvalidInput,
    KeyInUse,
    NotFound,
    RemoteGPUError,
    Unauthenticated,
)
from remotegpu_core.models import (
    AuditEvent,
    Enrollment,
    Machine,
    MachineChange,
    MachineLabel,
    Outcome,
)
from remotegpu_core.paging import PageRequest
from remotegpu_core.secret import secret_hash
from remotegpu_core.services.allocations.override import override_quarantine
from remotegpu_core.services.enrollments import (
    create_enrollment,
    list_enrollments,
    redeem,
    revoke_enrollment,
    revoked_keys,
    visible_enrollments,
)
from remotegpu_core.services.presence import connect
from remotegpu_core.settings import Settings, load_settings
from remotegpu_core.states import Lifecycle, Presence
from tests.core.hosts import REPLICA, enroll, key_of, make_machine, make_online
from tests.core.people import make_tenant

pytestmark = pytest.mark.usefixtures("database")

HARDWARE = "4c4c4544-0042-3510-8054-b3c04f4d3232"
SOURCE = "192.0.2.7"


async def token_for(admin: Actor, name: str = "node-a", **values: Any) -> str:
    token, _ = await create_enrollment(admin, load_settings(), machine_name=name, **values)
    return token


async def token_again(admin: Actor, machine: Machine) -> str:
    token, _ = await create_enrollment(
        admin, load_settings(), machine_name=None, machine_id=machine.id
    )
    return token


async def refusal(token: str, **values: Any) -> str:
    with pytest.raises(EnrollmentRefused) as caught:
        await redeem(enroll(token, **values), source_address=SOURCE)
    assert token not in caught.value.message
    return caught.value.message


async def test_a_host_becomes_a_machine(admin: Actor) -> None:
    token = await token_for(admin, "Node-A", labels=[("rack", "7"), ("room", "")])
    machine = await redeem(enroll(token, hardware=HARDWARE.upper()), source_address=SOURCE)

    row = await Machine.get()
    assert (row.id, row.name, row.name_key) == (machine.id, "Node-A", "node-a")
    assert (bytes(row.public_key), row.hardware_uuid) == (key_of("host"), HARDWARE)
    assert (row.presence, row.lifecycle, row.epoch) == (
        Presence.UNREACHABLE,
        Lifecycle.IN_SERVICE,
        0,
    )
    labels = {label.key: label.value for label in await MachineLabel.all()}
    assert labels == {"rack": "7", "room": ""}
    enrollment = await Enrollment.get()
    assert (enrollment.machine_id, enrollment.replaces) == (machine.id, False)
    assert [change.kind for change in await MachineChange.all()] == ["ENROLLED"]


async def test_the_token_is_stored_as_a_hash(admin: Actor) -> None:
    token = await token_for(admin)
    row = (await Enrollment.all().values())[0]
    assert row["token_hash"] == secret_hash(token)
    assert token.removeprefix("rge_") not in str(row)


async def test_it_lives_as_long_as_the_settings_say(admin: Actor) -> None:
    before = now_ms()
    _, enrollment = await create_enrollment(
        admin, load_settings(enrollment_lifetime=60), machine_name="node-a"
    )
    assert before + 60_000 <= enrollment.expires_at <= now_ms() + 60_000


async def test_of_a_hundred_hosts_at_once_one_wins(admin: Actor) -> None:
    token = await token_for(admin)

    async def attempt(number: int) -> Machine | RemoteGPUError:
        try:
            return await redeem(enroll(token, key=f"host-{number}"), source_address=SOURCE)
        except RemoteGPUError as error:
            return error

    outcomes = await asyncio.gather(*(attempt(number) for number in range(100)))
    won = [outcome for outcome in outcomes if isinstance(outcome, Machine)]
    lost = [outcome for outcome in outcomes if isinstance(outcome, EnrollmentRefused)]
    assert (len(won), len(lost)) == (1, 99)
    assert all("used already, by another host" in error.message for error in lost)
    assert (await Machine.get()).public_key == won[0].public_key


async def test_the_same_host_may_ask_again(admin: Actor) -> None:
    token = await token_for(admin)
    machines = await asyncio.gather(
        *(redeem(enroll(token), source_address=SOURCE) for _ in range(20))
    )
    assert {machine.id for machine in machines} == {(await Machine.get()).id}
    again = await redeem(enroll(token), source_address=SOURCE)
    assert again.id == machines[0].id
    assert await AuditEvent.filter(action="redeemEnrollment").count() == 1
    assert await MachineChange.all().count() == 1

    await Enrollment.all().update(expires_at=now_ms())
    assert "expired" in await refusal(token)


async def test_a_token_that_is_over(admin: Actor) -> None:
    assert "no such enrolment token" in await refusal("rge_" + "x" * 43)
    assert "no such enrolment token" in await refusal("\x00")

    token = await token_for(admin, "expired")
    await Enrollment.all().update(expires_at=now_ms())
    assert "expired" in await refusal(token)

    token, enrollment = await create_enrollment(admin, load_settings(), machine_name="revoked")
    await revoke_enrollment(admin, enrollment.id)
    assert "revoked" in await refusal(token)
    assert await Machine.all().count() == 0


async def test_who_comes_too_late_is_written_down(admin: Actor) -> None:
    token = await token_for(admin)
    await refusal("rge_" + "x" * 43)
    assert await AuditEvent.filter(action="redeemEnrollment").count() == 0

    await redeem(enroll(token), source_address=SOURCE)
    await refusal(token, key="thief")
    event = await AuditEvent.get(action="redeemEnrollment", outcome=Outcome.DENIED)
    assert (event.actor_kind, event.source_address) == (ActorKind.ANONYMOUS, SOURCE)
    assert (event.target_type, event.target_id) == ("Enrollment", (await Enrollment.get()).id)
    assert event.details["hostname"] == "thief.example.org"
    assert event.details["code"] == "ENROLLMENT_REFUSED"


async def test_a_name_that_was_taken_in_the_meantime_is_explained(admin: Actor) -> None:
    first, second = await token_for(admin, "node-a"), await token_for(admin, "NODE-A")
    await redeem(enroll(first, key="one"), source_address=SOURCE)
    with pytest.raises(Conflict, match="'NODE-A' was enrolled in the meantime"):
        await redeem(enroll(second, key="two"), source_address=SOURCE)
    # The token is not used up by that.
    assert (await Enrollment.get(machine_name="NODE-A")).redeemed_at is None
    event = await AuditEvent.get(action="redeemEnrollment", outcome=Outcome.FAILED)
    assert event.details["code"] == "CONFLICT"


async def test_equal_hardware_needs_the_consent_of_an_admin(admin: Actor) -> None:
    """Blades whose firmware has one UUID: the key is what tells them apart."""
    other = await make_machine("other", hardware_uuid=HARDWARE)
    token = await token_for(admin)
    machine = await redeem(enroll(token, hardware=HARDWARE.upper()), source_address=SOURCE)
    row = await Machine.get(id=machine.id)
    assert (row.lifecycle, row.hardware_uuid) == (Lifecycle.QUARANTINED, None)
    assert HARDWARE in (row.lifecycle_reason or "")
    # Who was there is not shut out by a newcomer's claim.
    assert (await Machine.get(id=other.id)).lifecycle is Lifecycle.IN_SERVICE
    await override_quarantine(admin, machine.id, "two blades of one chassis")
    assert (await Machine.get(id=machine.id)).lifecycle is Lifecycle.IN_SERVICE


@pytest.mark.parametrize(
    "placeholder",
    [
        None,
        "",
        "Not Specified",
        "00000000-0000-0000-0000-000000000000",
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
        "03000200-0400-0500-0006-000700080009",
    ],
)
async def test_a_placeholder_is_no_identity(admin: Actor, placeholder: str | None) -> None:
    for name in ("one", "two"):
        token = await token_for(admin, name)
        machine = await redeem(enroll(token, key=name, hardware=placeholder), source_address=SOURCE)
        assert machine.hardware_uuid is None


async def test_a_reinstalled_host_takes_its_machine_over(admin: Actor) -> None:
    machine, epoch = await make_online("node-a")
    token = await token_again(admin, machine)
    replaced = await redeem(enroll(token, key="new", hardware=HARDWARE), source_address=SOURCE)

    assert (replaced.id, replaced.name) == (machine.id, "node-a")
    row = await Machine.get()
    assert bytes(row.public_key) == key_of("new")
    assert (row.epoch, row.hardware_uuid) == (epoch + 1, HARDWARE)
    # The link of the old key is over, and nobody will say so under the new epoch.
    assert (row.presence, row.replica_id) == (Presence.UNREACHABLE, None)
    kinds = [change.kind for change in await MachineChange.all().order_by("sequence")]
    assert kinds == ["PRESENCE_CHANGED", "PRESENCE_CHANGED", "ENROLLED"]
    event = await AuditEvent.get(action="redeemEnrollment")
    assert event.details["replaced_key"] == "true"


async def test_a_connection_that_the_old_key_was_verified_for_is_not_made(admin: Actor) -> None:
    machine, _ = await make_online("node-a")
    old_key = bytes(machine.public_key)
    await redeem(enroll(await token_again(admin, machine), key="new"), source_address=SOURCE)
    for key, accepted in ((old_key, False), (key_of("new"), True)):
        connected = await connect(
            machine.id, REPLICA, agent_version="1", boot_id="b", public_key=key
        )
        assert (connected is not None) is accepted


async def test_connecting_and_enrolling_anew_at_once_never_share_an_epoch(admin: Actor) -> None:
    machine, first = await make_online("node-a")
    tokens = [await token_again(admin, machine) for _ in range(4)]
    connections = [connect(machine.id, REPLICA, agent_version="1", boot_id="b") for _ in range(8)]
    enrolments = [
        redeem(enroll(token, key=f"key-{number}"), source_address=SOURCE)
        for number, token in enumerate(tokens)
    ]
    outcomes = await asyncio.gather(*connections, *enrolments)
    epochs = [outcome.epoch for outcome in outcomes if outcome is not None]
    assert sorted(epochs) == list(range(first + 1, first + 13))


async def test_a_key_that_was_replaced_since_does_not_get_in_with_its_old_token(
    admin: Actor,
) -> None:
    token = await token_for(admin)
    machine = await redeem(enroll(token, key="first"), source_address=SOURCE)
    await redeem(enroll(await token_again(admin, machine), key="second"), source_address=SOURCE)
    assert "used already" in await refusal(token, key="first")


async def test_a_key_serves_one_machine(admin: Actor) -> None:
    await redeem(enroll(await token_for(admin, "one"), key="same"), source_address=SOURCE)
    token = await token_for(admin, "two")
    with pytest.raises(KeyInUse, match="serves one machine only"):
        await redeem(enroll(token, key="same"), source_address=SOURCE)
    # The token is as good as it was, with another key.
    machine = await redeem(enroll(token, key="other"), source_address=SOURCE)
    # What was revoked serves no machine again, its own neither.
    await redeem(enroll(await token_again(admin, machine), key="newer"), source_address=SOURCE)
    assert await revoked_keys(machine.id) == [key_of("other")]
    for token in (await token_for(admin, "three"), await token_again(admin, machine)):
        with pytest.raises(KeyInUse):
            await redeem(enroll(token, key="other"), source_address=SOURCE)
    # Enrolled anew with the key that it has, it keeps it.
    await redeem(enroll(await token_again(admin, machine), key="newer"), source_address=SOURCE)
    assert await revoked_keys(machine.id) == [key_of("other")]
    with pytest.raises(IntegrityError):
        await Machine.filter(id=machine.id).update(public_key=key_of("same"))


async def test_a_reinstalled_host_with_hardware_of_another(admin: Actor) -> None:
    machine = await make_machine("node-a")
    await make_machine("node-b", hardware_uuid=HARDWARE)
    token = await token_again(admin, machine)
    await redeem(enroll(token, hardware=HARDWARE), source_address=SOURCE)
    assert (await Machine.get(id=machine.id)).lifecycle is Lifecycle.QUARANTINED
    assert (await Machine.get(name="node-b")).hardware_uuid == HARDWARE


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"machine_name": None}, "machineName"),
        ({"machine_name": ""}, "machineName"),
        ({"machine_name": "a b"}, "machineName"),
        ({"machine_name": "-a"}, "machineName"),
        ({"machine_name": "x" * 64}, "machineName"),
        ({"machine_name": "a\x00"}, "machineName"),
        ({"machine_name": "a", "labels": [("", "x")]}, "labels"),
        ({"machine_name": "a", "labels": [("k", "x" * 256)]}, "labels"),
        ({"machine_name": "a", "labels": [("k", "a\x00")]}, "labels"),
        ({"machine_name": "a", "labels": [("k", "1"), ("k", "2")]}, "labels"),
        ({"machine_name": "a", "labels": [(f"k{n}", "") for n in range(65)]}, "labels"),
    ],
)
async def test_names_and_labels_that_cannot_be(
    admin: Actor, settings: Settings, values: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await create_enrollment(admin, settings, **values)
    assert caught.value.field == [field]
    assert await Enrollment.all().count() == 0


async def test_either_a_name_or_a_machine(admin: Actor, settings: Settings) -> None:
    machine = await make_machine("node-a")
    with pytest.raises(InvalidInput, match="machineName for a new machine"):
        await create_enrollment(admin, settings, machine_name="b", machine_id=machine.id)
    with pytest.raises(InvalidInput, match="keeps its labels"):
        await create_enrollment(
            admin, settings, machine_name=None, machine_id=machine.id, labels=[("a", "b")]
        )
    with pytest.raises(NotFound) as caught:
        await create_enrollment(admin, settings, machine_name=None, machine_id=uuid.uuid4())
    assert caught.value.field == ["machineId"]
    with pytest.raises(Conflict, match="machineId instead"):
        await create_enrollment(admin, settings, machine_name="NODE-A")


async def test_revoking(admin: Actor, settings: Settings) -> None:
    token, enrollment = await create_enrollment(admin, settings, machine_name="node-a")
    first = await revoke_enrollment(admin, enrollment.id)
    second = await revoke_enrollment(admin, enrollment.id)
    assert first.revoked_at == second.revoked_at
    with pytest.raises(NotFound):
        await revoke_enrollment(admin, uuid.uuid4())

    token, enrollment = await create_enrollment(admin, settings, machine_name="node-a")
    await redeem(enroll(token), source_address=SOURCE)
    with pytest.raises(Conflict, match="redeemed already"):
        await revoke_enrollment(admin, enrollment.id)
    assert (await Enrollment.get(id=enrollment.id)).revoked_at is None


async def test_revoking_and_redeeming_at_once_is_one_or_the_other(
    admin: Actor, settings: Settings
) -> None:
    for number in range(10):
        token, enrollment = await create_enrollment(admin, settings, machine_name=f"node-{number}")
        outcomes = await asyncio.gather(
            redeem(enroll(token, key=f"key-{number}"), source_address=SOURCE),
            revoke_enrollment(admin, enrollment.id),
            return_exceptions=True,
        )
        row = await Enrollment.get(id=enrollment.id)
        assert (row.redeemed_at is None) != (row.revoked_at is None)
        assert sum(isinstance(outcome, RemoteGPUError) for outcome in outcomes) == 1
        assert await Machine.exists(name=f"node-{number}") == (row.redeemed_at is not None)


async def test_only_admins_enrol(admin: Actor, settings: Settings) -> None:
    _, enrollment = await create_enrollment(admin, settings, machine_name="node-a")
    for actor, error in ((await make_tenant(), Forbidden), (anonymous(), Unauthenticated)):
        expected: type[RemoteGPUError] = error
        with pytest.raises(expected):
            await create_enrollment(actor, settings, machine_name="node-b")
        with pytest.raises(expected):
            await revoke_enrollment(actor, enrollment.id)
        with pytest.raises(expected):
            await list_enrollments(actor, PageRequest())
        assert await visible_enrollments(actor, [enrollment.id]) == {}
    assert set(await visible_enrollments(admin, [enrollment.id])) == {enrollment.id}
    assert [row.id for row in (await list_enrollments(admin, PageRequest())).rows] == [
        enrollment.id
    ]
