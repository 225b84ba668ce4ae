"""Grants, and what ends with them."""

import itertools
import uuid
from typing import Any

import pytest

from remotegpu_core.actor import SYSTEM, Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import Forbidden, InvalidInput, LimitExceeded, NotFound
from remotegpu_core.ids import new_id
from remotegpu_core.models import (
    AuditEvent,
    Dataset,
    DatasetGrant,
    Mount,
    Operation,
    User,
    WorkspaceRole,
)
from remotegpu_core.services.datasets import granting
from remotegpu_core.services.datasets.access import access_of, baseless_mounts
from remotegpu_core.services.datasets.granting import grant_dataset, revoke_dataset_grant
from remotegpu_core.services.datasets.registry import DatasetChange, update_dataset
from remotegpu_core.services.datasets.revoking import RETRY_AFTER, end_baseless
from remotegpu_core.services.workspaces import remove_member, set_member
from remotegpu_core.settings import Settings
from remotegpu_core.states import CommandState, DatasetAccess, DatasetVisibility, MountState
from remotegpu_protocol.datasets import SourceKind
from tests.core.people import make_tenant
from tests.core.services.allocations.hosts import active, answer, waiting
from tests.core.services.datasets.places import make_dataset, make_lab, mounted, mounting_host

pytestmark = pytest.mark.usefixtures("database")

READ, WRITE = DatasetAccess


async def test_to_users_and_workspaces(settings: Settings, admin: Actor) -> None:
    ada, bob, carl = await make_tenant(), await make_tenant(), await make_tenant()
    lab, others = await make_lab(ada, carl), await make_lab(bob)
    row = await make_dataset(settings, ada)
    assert bob.user_id
    assert carl.user_id
    name = (await User.get(id=bob.user_id)).username
    for _ in range(2):
        await grant_dataset(ada, row.id, READ, username=name.upper())
    await grant_dataset(ada, row.id, WRITE, workspace_id=lab.id)
    assert await access_of(bob.user_id, [row.id]) == {row.id: READ}
    assert await access_of(carl.user_id, [row.id]) == {row.id: WRITE}
    assert await access_of(carl.user_id, []) == {}
    await grant_dataset(admin, row.id, WRITE, user_id=bob.user_id)
    assert await access_of(bob.user_id, [row.id]) == {row.id: WRITE}
    assert await DatasetGrant.filter(dataset_id=row.id).count() == 2
    events = await AuditEvent.filter(action="grantDataset").order_by("id")
    assert [event.details["changed"] for event in events] == ["yes", "no", "yes", "yes"]

    before = await DatasetGrant.all().count()

    async def grant(**to: Any) -> Any:
        return await grant_dataset(ada, row.id, READ, **to)

    async def revoke(**to: Any) -> Any:
        return await revoke_dataset_grant(ada, row.id, **to)

    for change in (grant, revoke):
        for both in ({}, {"user_id": bob.user_id, "workspace_id": lab.id}):
            with pytest.raises(InvalidInput):
                await change(**both)
        for to, field in (
            ({"user_id": new_id()}, "userId"),
            ({"username": "nobody"}, "username"),
            ({"username": "\x00"}, "username"),
            ({"workspace_id": new_id()}, "workspaceId"),
            # That she is not in.
            ({"workspace_id": others.id}, "workspaceId"),
        ):
            with pytest.raises(NotFound) as caught:
                await change(**to)
            assert caught.value.field == [field]
    # Neither who was granted it nor a stranger decides over it.
    stranger = await make_tenant()
    for actor, error in ((carl, Forbidden), (stranger, NotFound)):
        expected: type[Exception] = error
        with pytest.raises(expected):
            await grant_dataset(actor, row.id, WRITE, user_id=actor.user_id)
        with pytest.raises(expected):
            await revoke_dataset_grant(actor, row.id, user_id=bob.user_id)
    assert await DatasetGrant.all().count() == before
    await revoke_dataset_grant(ada, row.id, username=name)
    with pytest.raises(NotFound, match="no such grant"):
        await revoke_dataset_grant(ada, row.id, user_id=bob.user_id)
    assert await access_of(bob.user_id, [row.id]) == {}


async def test_no_more_than_so_many(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(granting, "MAX_GRANTS", 1)
    ada, bob = await make_tenant(), await make_tenant()
    row = await make_dataset(settings, ada)
    await grant_dataset(ada, row.id, READ, user_id=bob.user_id)
    await grant_dataset(ada, row.id, WRITE, user_id=bob.user_id)
    with pytest.raises(LimitExceeded):
        await grant_dataset(ada, row.id, READ, user_id=ada.user_id)


async def test_what_rested_on_a_grant_ends_with_it(settings: Settings) -> None:
    ada, bob = await make_tenant(), await make_tenant()
    host = await mounting_host("node-1", grant=[ada, bob])
    allocation = await active(bob, settings, host, gpu_ids=host.gpu(0))
    own = await active(ada, settings, host, gpu_ids=host.gpu(1))
    row = await make_dataset(settings, ada)
    await grant_dataset(ada, row.id, WRITE, user_id=bob.user_id)
    reading = await mounted(bob, row, allocation, "/data/r")
    writing = await mounted(bob, row, allocation, "/data/w", read_only=False)
    hers = await mounted(ada, row, own, "/data/own", read_only=False)

    async def states() -> list[MountState]:
        return [(await Mount.get(id=each.id)).state for each in (reading, writing, hers)]

    there, leaving = MountState.MOUNTED, MountState.UNMOUNTING
    # Less than before: what wrote goes, what reads stays.
    await grant_dataset(ada, row.id, READ, user_id=bob.user_id)
    assert await states() == [there, leaving, there]
    await revoke_dataset_grant(ada, row.id, user_id=bob.user_id)
    assert await states() == [leaving, leaving, there]
    taken = await Mount.get(id=reading.id)
    assert taken.error_code == "ACCESS_REVOKED"
    operation = await Operation.get(id=taken.operation_id)
    assert (operation.kind, operation.user_id) == ("unmountDataset", bob.user_id)
    for command in await waiting(allocation):
        assert command.kind == "dataset.unmount"
        await answer(command)
    assert await states() == [MountState.UNMOUNTED, MountState.UNMOUNTED, there]
    assert await AuditEvent.filter(action="unmountDataset", user_id=ada.user_id).count() == 2


async def test_what_rested_on_a_visibility_ends_with_it(settings: Settings) -> None:
    ada, bob = await make_tenant(), await make_tenant()
    host = await mounting_host("node-1", grant=[bob])
    allocation = await active(bob, settings, host)
    row = await make_dataset(settings, ada, visibility=DatasetVisibility.PUBLIC)
    there = await mounted(bob, row, allocation, "/data/r")
    await update_dataset(ada, row.id, DatasetChange(visibility=DatasetVisibility.PRIVATE))
    assert (await Mount.get(id=there.id)).state is MountState.UNMOUNTING


async def test_what_rested_on_a_membership_ends_soon(settings: Settings) -> None:
    ada, bob = await make_tenant(), await make_tenant()
    lab = await make_lab(ada, bob)
    host = await mounting_host("node-1", grant=[bob])
    allocation = await active(bob, settings, host)
    row = await make_dataset(settings, ada)
    await grant_dataset(ada, row.id, READ, workspace_id=lab.id)
    there = await mounted(bob, row, allocation, "/data/r")
    assert await end_baseless() == 0
    assert bob.user_id
    await remove_member(SYSTEM, lab.id, bob.user_id)
    assert await end_baseless() == 1
    assert await end_baseless() == 0
    # A host that could not is told again, though not at once.
    (command,) = await waiting(allocation)
    await answer(command, CommandState.FAILED)
    assert (await Mount.get(id=there.id)).state is MountState.MOUNTED
    assert await end_baseless() == 0
    await Mount.filter(id=there.id).update(unmount_at=now_ms() - RETRY_AFTER - 1)
    assert await end_baseless() == 1


async def test_access_and_what_is_baseless_are_one(settings: Settings) -> None:
    """Every way to have access, alone: with it a mount stays, and nothing else keeps one."""
    ada, bob = await make_tenant(), await make_tenant()
    lab, foreign = await make_lab(ada, bob), await make_lab(ada)
    host = await mounting_host("node-1", grant=[bob])
    allocation = await active(bob, settings, host)
    assert bob.user_id
    await set_member(SYSTEM, lab.id, bob.user_id, WorkspaceRole.VIEWER)
    numbers = itertools.count()
    subjects = {"user": bob.user_id, "workspace": lab.id, "other workspace": foreign.id}
    cases: dict[uuid.UUID, dict[bool, uuid.UUID]] = {}
    for owner, visibility, workspace, (access, to) in itertools.product(
        (ada, bob),
        DatasetVisibility,
        (lab, foreign),
        ((None, ""), *itertools.product(DatasetAccess, subjects)),
    ):
        number = next(numbers)
        row = await Dataset.create(
            owner_id=owner.user_id,
            name=f"{number}",
            name_key=f"{number}",
            kind=SourceKind.NFS,
            location="nas:/x",
            visibility=visibility,
            workspace_id=workspace.id if visibility is DatasetVisibility.WORKSPACE else None,
            created_at=1,
        )
        if access is not None:
            await DatasetGrant.create(
                dataset_id=row.id,
                access=access,
                user_id=subjects[to] if to == "user" else None,
                workspace_id=None if to == "user" else subjects[to],
                created_at=1,
            )
        cases[row.id] = {}
        for read_only in (True, False):
            made = await Mount.create(
                dataset_id=row.id,
                allocation_id=allocation.id,
                machine_id=host.id,
                path=f"/data/{number}/{read_only}",
                read_only=read_only,
                state=MountState.MOUNTED,
                created_at=1,
            )
            cases[row.id][read_only] = made.id
    found = await access_of(bob.user_id, list(cases))
    assert 0 < len(found) < len(cases)
    assert {*found.values()} == {READ, WRITE}
    baseless = {mount_id for mount_id, _ in await baseless_mounts()}
    for dataset_id, mounts in cases.items():
        access = found.get(dataset_id)
        assert (mounts[True] in baseless) == (access is None)
        assert (mounts[False] in baseless) == (access is not WRITE)
    assert await end_baseless() == len(baseless)
    assert await baseless_mounts() == []
