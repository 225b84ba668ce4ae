"""What holds whatever the code does: tried by SQL, past every service."""

import uuid

import pytest
from tortoise.connection import get_connection
from tortoise.exceptions import IntegrityError

from remotegpu_core.clock import now_ms
from remotegpu_core.models import Gpu, MachineGrant, Workspace
from tests.core.hosts import make_machine
from tests.core.people import make_user

pytestmark = pytest.mark.usefixtures("database")


async def insert(table: str, **values: object) -> None:
    """One row, written as SQL."""
    names = ", ".join(f'"{name}"' for name in values)
    literals = ", ".join(_literal(value) for value in values.values())
    await get_connection("default").execute_query(
        f"INSERT INTO {table} ({names}) VALUES ({literals})"  # noqa: S608 - made of the test's own values
    )


def _literal(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).upper()
    return str(value) if isinstance(value, int) else f"'{value}'"


async def insert_gpu(machine_id: uuid.UUID, gpu_uuid: str, removed_at: int | None = None) -> None:
    await insert(
        "gpu",
        id=uuid.uuid4(),
        machine_id=machine_id,
        index=0,
        uuid=gpu_uuid,
        model="NVIDIA H100",
        health="HEALTHY",
        details="{}",
        created_at=now_ms(),
        removed_at=removed_at,
    )


async def insert_grant(
    machine_id: uuid.UUID, user_id: uuid.UUID | None, workspace_id: uuid.UUID | None
) -> None:
    await insert(
        "machine_grant",
        id=uuid.uuid4(),
        machine_id=machine_id,
        user_id=user_id,
        workspace_id=workspace_id,
        created_at=now_ms(),
    )


async def test_a_gpu_is_in_one_machine_at_a_time() -> None:
    first, second = await make_machine(), await make_machine()
    await insert_gpu(first.id, "GPU-1", removed_at=1)
    await insert_gpu(second.id, "GPU-1")

    with pytest.raises(IntegrityError):
        await insert_gpu(first.id, "GPU-1")
    await insert_gpu(first.id, "GPU-1", removed_at=2)
    assert await Gpu.filter(uuid="GPU-1", removed_at=None).count() == 1


async def test_a_removed_gpu_comes_back_only_while_nobody_has_it() -> None:
    first, second = await make_machine(), await make_machine()
    await insert_gpu(first.id, "GPU-1", removed_at=1)
    await insert_gpu(second.id, "GPU-1")
    with pytest.raises(IntegrityError):
        await Gpu.filter(machine_id=first.id).update(removed_at=None)


async def test_a_grant_is_to_exactly_one() -> None:
    machine, user = await make_machine(), await make_user()
    workspace = await Workspace.create(name="lab", name_key="lab", created_at=now_ms())

    await insert_grant(machine.id, user.id, None)
    await insert_grant(machine.id, None, workspace.id)
    for user_id, workspace_id in ((None, None), (user.id, workspace.id)):
        with pytest.raises(IntegrityError):
            await insert_grant(machine.id, user_id, workspace_id)
    assert await MachineGrant.all().count() == 2


async def test_a_grant_is_given_once() -> None:
    machine, user = await make_machine(), await make_user()
    workspace = await Workspace.create(name="lab", name_key="lab", created_at=now_ms())
    await insert_grant(machine.id, user.id, None)
    await insert_grant(machine.id, None, workspace.id)

    with pytest.raises(IntegrityError):
        await insert_grant(machine.id, user.id, None)
    with pytest.raises(IntegrityError):
        await insert_grant(machine.id, None, workspace.id)


async def test_a_grant_names_what_exists() -> None:
    machine = await make_machine()
    with pytest.raises(IntegrityError):
        await insert_grant(machine.id, uuid.uuid4(), None)
    with pytest.raises(IntegrityError):
        await insert_grant(uuid.uuid4(), (await make_user()).id, None)


async def test_names_keys_and_hardware_are_unique() -> None:
    hardware = "4c4c4544-0042-3510-8054-b3c04f4d3232"
    await make_machine("node", hardware_uuid=hardware)
    await make_user("alice")

    with pytest.raises(IntegrityError):
        await make_machine("NODE")
    with pytest.raises(IntegrityError):
        await make_machine("other", hardware_uuid=hardware)
    with pytest.raises(IntegrityError):
        await make_user("Alice")
    # Without a hardware UUID there is nothing to be unique.
    await make_machine("third")
    await make_machine("fourth")


async def test_token_hashes_are_unique() -> None:
    user = await make_user()
    values = {"user_id": user.id, "token_hash": "ab" * 32, "created_at": 1, "expires_at": 2}
    await insert("session", id=uuid.uuid4(), **values)
    with pytest.raises(IntegrityError):
        await insert("session", id=uuid.uuid4(), **values)


async def test_one_label_a_key_and_one_membership_a_user() -> None:
    machine, user = await make_machine(), await make_user()
    workspace = await Workspace.create(name="lab", name_key="lab", created_at=now_ms())
    label = {"machine_id": machine.id, "key": "rack", "value": "7"}
    member = {
        "workspace_id": workspace.id,
        "user_id": user.id,
        "role": "MEMBER",
        "created_at": 1,
    }
    await insert("machine_label", id=uuid.uuid4(), **label)
    await insert("membership", id=uuid.uuid4(), **member)
    with pytest.raises(IntegrityError):
        await insert("machine_label", id=uuid.uuid4(), **label)
    with pytest.raises(IntegrityError):
        await insert("membership", id=uuid.uuid4(), **member)


async def test_a_user_and_a_workspace_have_one_quota() -> None:
    user = await make_user()
    workspace = await Workspace.create(name="lab", name_key="lab", created_at=now_ms())
    for owner in ({"user_id": user.id}, {"workspace_id": workspace.id}):
        await insert("quota", id=uuid.uuid4(), gpus=1, **owner)
        with pytest.raises(IntegrityError):
            await insert("quota", id=uuid.uuid4(), gpus=2, **owner)
