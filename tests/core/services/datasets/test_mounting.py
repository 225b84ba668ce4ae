"""Mounting: from asking to the end, and what keeps it from being."""

import asyncio

import pytest
from tortoise.exceptions import IntegrityError

from remotegpu_core.errors import (
    Conflict,
    Forbidden,
    IdempotencyKeyReused,
    InvalidInput,
    LimitExceeded,
    NotFound,
)
from remotegpu_core.models import Allocation, AuditEvent, Command, Machine, Mount, Operation
from remotegpu_core.services import commands
from remotegpu_core.services.allocations.accounts import account_name
from remotegpu_core.services.allocations.outcomes import apply_outcome
from remotegpu_core.services.allocations.release import release
from remotegpu_core.services.datasets.granting import grant_dataset
from remotegpu_core.services.datasets.mounting import (
    MAX_MACHINE_MOUNTS,
    MAX_MOUNTS,
    unmount_dataset,
)
from remotegpu_core.services.datasets.reading import SHOWN_MOUNTS, mounts_of, visible_mounts
from remotegpu_core.services.datasets.source import Source
from remotegpu_core.services.ledger import ledger
from remotegpu_core.settings import Settings
from remotegpu_core.states import (
    AllocationState,
    CommandState,
    DatasetAccess,
    MountState,
    OperationState,
    Presence,
)
from remotegpu_protocol.datasets import SourceKind
from remotegpu_protocol.inventory import Policy
from tests.core.people import make_admin, make_tenant
from tests.core.services.allocations.hosts import (
    active,
    answer,
    carry_out,
    get,
    make_host,
    waiting,
)
from tests.core.services.datasets.places import (
    KINDS,
    NAS,
    make_dataset,
    make_lab,
    mount,
    mounted,
    mounting_host,
)

pytestmark = pytest.mark.usefixtures("database")

S3 = Source(SourceKind.S3, "s3://models/imagenet", "http://127.0.0.1:1")


async def test_from_asking_to_gone(settings: Settings) -> None:
    ada = await make_tenant()
    host = await mounting_host("node-1", grant=[ada])
    allocation = await active(ada, settings, host)
    dataset = await make_dataset(settings, ada, source=S3)
    made, operation = await mount(ada, dataset, allocation, read_only=False, key="k")
    assert (made.state, operation.state) == (MountState.PENDING, OperationState.PENDING)
    (command,) = await waiting(allocation)
    before = await Allocation.get(id=allocation.id)
    assert (command.kind, command.generation) == ("dataset.mount", before.generation)
    assert command.arguments == {
        "mount_id": str(made.id),
        "allocation_id": str(allocation.id),
        "account": account_name(allocation.id),
        "kind": "S3",
        "location": "s3://models/imagenet",
        "endpoint": "http://127.0.0.1:1",
        "path": "/data/imagenet",
        "read_only": False,
    }
    await answer(command)
    # The same call with its key is the same mount; with another input it is refused.
    again, same = await mount(ada, dataset, allocation, read_only=False, key="k")
    assert (again.id, again.state) == (made.id, MountState.MOUNTED)
    assert (same.id, same.state) == (operation.id, OperationState.SUCCEEDED)
    assert again.mounted_at is not None
    with pytest.raises(IdempotencyKeyReused):
        await mount(ada, dataset, allocation, key="k")

    leaving, ending = await unmount_dataset(ada, made.id, key="u")
    assert leaving.state is MountState.UNMOUNTING
    # Asked again it is under way, with whatever key.
    for key in ("u", None, "other"):
        _, known = await unmount_dataset(ada, made.id, key=key)
        assert known.id == ending.id
    (command,) = await waiting(allocation)
    assert command.kind == "dataset.unmount"
    assert command.arguments == {"mount_id": str(made.id), "allocation_id": str(allocation.id)}
    await answer(command)
    gone = await Mount.get(id=made.id)
    assert (gone.state, gone.error_code) == (MountState.UNMOUNTED, None)
    assert gone.ended_at is not None
    assert (await Operation.get(id=ending.id)).state is OperationState.SUCCEEDED
    with pytest.raises(Conflict, match="UNMOUNTED already"):
        await unmount_dataset(ada, made.id)
    # The path is free again.
    await mounted(ada, dataset, allocation, "/data/imagenet")
    events = await AuditEvent.filter(target_type="Mount")
    assert sorted(event.action for event in events) == [
        *("mountDataset", "mountDataset"),
        *("unmountDataset", "unmountDataset", "unmountDataset"),
    ]


async def test_whose_access_it_rests_on(settings: Settings) -> None:
    ada, bob, root = await make_tenant(), await make_tenant(), await make_admin()
    host = await mounting_host("node-1", grant=[ada, bob])
    allocation = await active(ada, settings, host, gpu_ids=host.gpu(0))
    dataset = await make_dataset(settings, bob)
    # Not there for her; not there for her when an admin asks either.
    with pytest.raises(NotFound) as hidden:
        await mount(ada, dataset, allocation)
    assert hidden.value.field == ["datasetId"]
    with pytest.raises(Forbidden) as refused:
        await mount(root, dataset, allocation)
    assert refused.value.field == ["datasetId"]
    # Its owner has no part in her allocation.
    with pytest.raises(NotFound) as foreign:
        await mount(bob, dataset, allocation)
    assert foreign.value.field == ["allocationId"]
    await grant_dataset(bob, dataset.id, DatasetAccess.READ, user_id=ada.user_id)
    with pytest.raises(Forbidden) as reading:
        await mount(ada, dataset, allocation, read_only=False)
    assert reading.value.field == ["readOnly"]
    assert await Command.filter(kind="dataset.mount").count() == 0
    assert await Mount.all().count() == 0
    await mounted(root, dataset, allocation, "/data/a")
    await grant_dataset(bob, dataset.id, DatasetAccess.WRITE, user_id=ada.user_id)
    await mounted(ada, dataset, allocation, "/data/b", read_only=False)


async def test_in_a_workspace(settings: Settings) -> None:
    ada, bob, chief = await make_tenant(), await make_tenant(), await make_tenant()
    lab = await make_lab(ada, bob, admin=chief)
    host = await mounting_host("node-1", grant=[ada])
    allocation = await active(ada, settings, host, workspace_id=lab.id)
    own = await make_dataset(settings, ada)
    public = await make_dataset(settings, bob, visibility="PUBLIC")
    theirs = await mounted(ada, own, allocation, "/data/own")
    shown = await mounted(ada, public, allocation, "/data/public")
    # A member sees the allocation, and of its mounts those whose dataset is theirs to see.
    for actor, expected in ((ada, {theirs.id, shown.id}), (bob, {shown.id}), (chief, {shown.id})):
        found = await mounts_of(actor, [allocation.id])
        assert {row.id for row in found[allocation.id]} == expected
    stranger = await make_tenant()
    assert await visible_mounts(stranger) == []
    with pytest.raises(Forbidden):
        await unmount_dataset(bob, shown.id)
    with pytest.raises(NotFound):
        await unmount_dataset(bob, theirs.id)
    # Who manages the allocation mounts on it what they see and its user may use.
    made, operation = await mount(chief, public, allocation, "/data/more")
    assert operation.user_id == ada.user_id
    await unmount_dataset(chief, made.id)


async def test_where_it_cannot_be(settings: Settings) -> None:
    ada = await make_tenant()
    dataset = await make_dataset(settings, ada)
    plain = await make_host("node-1", grant=[ada])
    bare = await make_host(
        "node-2",
        policy=Policy(commands=[*KINDS[:3], "dataset.mount", "dataset.unmount"]),
        grant=[ada],
    )
    half = await make_host("node-3", policy=Policy(commands=[*KINDS, "dataset.mount"]), grant=[ada])
    for host, said in (
        (plain, "does not enable dataset.mount and dataset.unmount"),
        (bare, "makes no accounts"),
        (half, "does not enable dataset.unmount"),
    ):
        with pytest.raises(Conflict, match=said) as refused:
            await mount(ada, dataset, await active(ada, settings, host))
        assert refused.value.field == ["allocationId"]
    host = await mounting_host("node-4", grant=[ada])
    pending = await get(ada, settings, host)
    with pytest.raises(Conflict, match="is PENDING"):
        await mount(ada, dataset, pending)
    allocation = await carry_out(pending)
    await Machine.filter(id=host.id).update(presence=Presence.UNREACHABLE)
    with pytest.raises(Conflict, match="UNREACHABLE"):
        await mount(ada, dataset, allocation)
    await Machine.filter(id=host.id).update(presence=Presence.ONLINE, command_hold="cloned")
    with pytest.raises(Conflict, match="accepts it"):
        await mount(ada, dataset, allocation)
    await Machine.filter(id=host.id).update(command_hold=None)
    # A directory is on one machine.
    here, there = [
        await make_dataset(
            settings, ada, source=Source(SourceKind.DIRECTORY, "/srv/data", machine_id=machine.id)
        )
        for machine in (host, plain)
    ]
    with pytest.raises(Conflict, match="another machine") as elsewhere:
        await mount(ada, there, allocation)
    assert elsewhere.value.field == ["datasetId"]
    assert "node" not in elsewhere.value.message
    assert await Mount.all().count() == 0
    await mounted(ada, here, allocation, "/data/here")
    await Allocation.filter(id=allocation.id).update(ends_at=1)
    with pytest.raises(Conflict, match="over"):
        await mount(ada, here, allocation)


PATHS = (
    *(
        "",
        "/",
        "/data",
        "/data/",
        "data/x",
        "/etc/passwd",
        "/home/rg-x",
        "/data/../etc",
        "/data/./x",
    ),
    *(
        "/data/x/",
        "/data//x",
        "/data/.ssh",
        "/data/-rf",
        "/data/x\n",
        "/data/x y",
        "/data/x;reboot",
    ),
    *("/data/$(reboot)", "/data/`id`", "/data/x,bind", "/data/x\\040y", "/data/x'", '/data/x"'),
    *("/data/\u202ex", "/data/é", "/data/x\x00", "/data/" + "x" * 129, "/data" + "/x" * 8),
    *("/mnt/../data/x", "//data/x", "/datasets2/x", "/data/*", "/data/x:y", "/data/x=y", "/data/~"),
)


async def test_paths_where_nothing_may_be(settings: Settings) -> None:
    ada = await make_tenant()
    host = await mounting_host("node-1", grant=[ada])
    allocation = await active(ada, settings, host)
    dataset = await make_dataset(settings, ada)
    for path in PATHS:
        with pytest.raises(InvalidInput) as refused:
            await mount(ada, dataset, allocation, path)
        assert refused.value.field == ["path"], path
    assert await Mount.all().count() == 0
    assert await waiting(allocation) == []


async def test_a_path_is_once_on_a_machine(settings: Settings) -> None:
    ada, bob = await make_tenant(), await make_tenant()
    host = await mounting_host("node-1", grant=[ada, bob], gpus=2)
    other = await mounting_host("node-2", grant=[ada])
    first = await active(ada, settings, host, gpu_ids=host.gpu(0))
    second = await active(bob, settings, host, gpu_ids=host.gpu(1))
    elsewhere = await active(ada, settings, other)
    dataset = await make_dataset(settings, ada, visibility="PUBLIC")
    results = await asyncio.gather(
        *(mount(ada, dataset, first, "/data/a/b") for _ in range(3)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, BaseException)]
    assert [type(result) for result in refused] == [Conflict, Conflict]
    for actor, allocation in ((ada, first), (bob, second)):
        for path in ("/data/a/b", "/data/a", "/data/a/b/c"):
            with pytest.raises(Conflict) as taken:
                await mount(actor, dataset, allocation, path)
            assert taken.value.field == ["path"]
    await mount(bob, dataset, second, "/data/a/bc")
    await mount(ada, dataset, elsewhere, "/data/a/b")


async def test_a_path_is_once_whatever_the_code_does(settings: Settings) -> None:
    ada = await make_tenant()
    host = await mounting_host("node-1", grant=[ada])
    allocation = await active(ada, settings, host)
    dataset = await make_dataset(settings, ada)
    there, _ = await mount(ada, dataset, allocation, "/data/a")
    other, _ = await mount(ada, dataset, allocation, "/data/b")
    over = (MountState.UNMOUNTED, MountState.FAILED)
    for state in MountState:
        await Mount.filter(id=there.id).update(state=state, path="/data/a")
        if state in over:
            await Mount.filter(id=other.id).update(path="/data/a")
            await Mount.filter(id=other.id).update(path="/data/b")
        else:
            with pytest.raises(IntegrityError):
                await Mount.filter(id=other.id).update(path="/data/a")


async def test_no_more_than_so_many(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = await make_tenant()
    host = await mounting_host("node-1", grant=[ada])
    allocation = await active(ada, settings, host, gpu_ids=host.gpu(0))
    other = await active(ada, settings, host, gpu_ids=host.gpu(1))
    dataset = await make_dataset(settings, ada)
    for number in range(MAX_MOUNTS):
        await mount(ada, dataset, allocation, f"/data/{number}")
    with pytest.raises(LimitExceeded):
        await mount(ada, dataset, allocation, "/data/more")
    assert MAX_MACHINE_MOUNTS > MAX_MOUNTS
    monkeypatch.setattr("remotegpu_core.services.datasets.mounting.MAX_MACHINE_MOUNTS", MAX_MOUNTS)
    with pytest.raises(LimitExceeded, match="machine"):
        await mount(ada, dataset, other, "/data/more")
    # What is over is not kept for good.
    await Mount.filter(allocation_id=allocation.id).update(state=MountState.UNMOUNTED)
    (row, *_) = await Mount.filter(allocation_id=allocation.id)
    for _ in range(SHOWN_MOUNTS):
        await Mount.create(
            **{
                name: getattr(row, name)
                for name in ("dataset_id", "allocation_id", "machine_id", "path", "read_only")
            },
            state=MountState.FAILED,
            created_at=1,
        )
    made, _ = await mount(ada, dataset, allocation, "/data/new")
    assert await Mount.filter(allocation_id=allocation.id).count() == SHOWN_MOUNTS + 1
    assert (await mounts_of(ada, [allocation.id]))[allocation.id][0].id == made.id


@pytest.mark.parametrize(
    ("ended", "state", "operation"),
    [
        (CommandState.FAILED, MountState.FAILED, OperationState.FAILED),
        (CommandState.REFUSED, MountState.FAILED, OperationState.FAILED),
        (CommandState.CANCELLED, MountState.FAILED, OperationState.CANCELLED),
        # Nobody knows: it is taken away.
        (CommandState.INDETERMINATE, MountState.UNMOUNTING, OperationState.INDETERMINATE),
    ],
)
async def test_a_host_that_does_not_mount(
    settings: Settings, ended: CommandState, state: MountState, operation: OperationState
) -> None:
    ada = await make_tenant()
    host = await mounting_host("node-1", grant=[ada])
    allocation = await active(ada, settings, host)
    dataset = await make_dataset(settings, ada)
    made, begun = await mount(ada, dataset, allocation)
    (command,) = await waiting(allocation)
    await Command.filter(id=command.id).update(sent_at=1)
    await answer(command, ended)
    row = await Mount.get(id=made.id)
    assert (row.state, row.error_code, row.error_message) == (state, "TRIED", "it did not work")
    assert (await Operation.get(id=begun.id)).state is operation
    left = [command.kind for command in await waiting(allocation)]
    if state is MountState.UNMOUNTING:
        assert left == ["dataset.unmount"]
        await carry_out(allocation)
        # Where it is told later that it had worked, it is gone all the same.
        await answer(command)
        assert (await Mount.get(id=made.id)).state is MountState.UNMOUNTED
    else:
        assert left == []
        await mounted(ada, dataset, allocation, made.path)


async def test_what_a_host_says_names_no_source(settings: Settings) -> None:
    ada, bob = await make_tenant(), await make_tenant()
    host = await mounting_host("node-1", grant=[bob])
    allocation = await active(bob, settings, host)
    dataset = await make_dataset(settings, ada, source=NAS, visibility="PUBLIC")
    made, begun = await mount(bob, dataset, allocation)
    (command,) = await waiting(allocation)
    message = "mount.nfs: nas.example.org:/export/imagenet: nas.example.org says no"
    await Command.filter(id=command.id).update(error_message=message)
    async with ledger(host.id):
        await commands.mark_sent([command.id])
        await commands.move(command.id, CommandState.FAILED, error=("MOUNT_FAILED", message))
        await apply_outcome(await Command.get(id=command.id))
    row, operation = await Mount.get(id=made.id), await Operation.get(id=begun.id)
    for shown in (row.error_message, operation.error_message):
        assert shown == "mount.nfs: …: … says no"


async def test_a_host_that_does_not_unmount(settings: Settings) -> None:
    ada = await make_tenant()
    host = await mounting_host("node-1", grant=[ada])
    allocation = await active(ada, settings, host)
    dataset = await make_dataset(settings, ada)
    made = await mounted(ada, dataset, allocation, "/data/x")
    for ended in (CommandState.FAILED, CommandState.INDETERMINATE, CommandState.SUCCEEDED):
        _, begun = await unmount_dataset(ada, made.id)
        (command,) = await waiting(allocation)
        await answer(command, ended)
        row = await Mount.get(id=made.id)
        succeeded = ended is CommandState.SUCCEEDED
        assert row.state is (MountState.UNMOUNTED if succeeded else MountState.MOUNTED)
        assert (await Operation.get(id=begun.id)).state.value == ended.value
        assert row.error_code == (None if succeeded else "TRIED")


async def test_one_that_its_host_never_saw_is_called_back(settings: Settings) -> None:
    ada = await make_tenant()
    host = await mounting_host("node-1", grant=[ada])
    allocation = await active(ada, settings, host)
    dataset = await make_dataset(settings, ada)
    made, begun = await mount(ada, dataset, allocation)
    gone, ending = await unmount_dataset(ada, made.id)
    assert gone.state is MountState.UNMOUNTED
    assert ending.state is OperationState.SUCCEEDED
    assert (await Operation.get(id=begun.id)).state is OperationState.CANCELLED
    assert await waiting(allocation) == []
    # One that it may have seen is unmounted after it.
    made, begun = await mount(ada, dataset, allocation)
    (command,) = await waiting(allocation)
    await Command.filter(id=command.id).update(state=CommandState.SENT)
    leaving, _ = await unmount_dataset(ada, made.id)
    assert leaving.state is MountState.UNMOUNTING
    assert [row.kind for row in await waiting(allocation)] == ["dataset.mount", "dataset.unmount"]
    await carry_out(allocation)
    assert (await Mount.get(id=made.id)).state is MountState.UNMOUNTED
    assert (await Operation.get(id=begun.id)).state is OperationState.SUCCEEDED


async def test_mounts_end_with_their_allocation(settings: Settings) -> None:
    ada = await make_tenant()
    host = await mounting_host("node-1", grant=[ada])
    allocation = await active(ada, settings, host)
    dataset = await make_dataset(settings, ada)
    there = await mounted(ada, dataset, allocation, "/data/a")
    sent, _ = await mount(ada, dataset, allocation, "/data/b")
    (command,) = await waiting(allocation)
    await Command.filter(id=command.id).update(state=CommandState.SENT)
    unsent, begun = await mount(ada, dataset, allocation, "/data/c")
    _, cleaning = await release(ada, allocation.id)

    async def states() -> list[MountState]:
        rows = [await Mount.get(id=row.id) for row in (there, sent, unsent)]
        return [row.state for row in rows]

    assert await states() == [
        MountState.UNMOUNTING,
        MountState.UNMOUNTING,
        MountState.UNMOUNTED,
    ]
    assert (await Operation.get(id=begun.id)).state is OperationState.CANCELLED
    # Who asks for it all the same is told what does it.
    assert (await unmount_dataset(ada, there.id))[1].id == cleaning.id
    allocation = await carry_out(allocation)
    assert allocation.state is AllocationState.RELEASED
    assert await states() == [MountState.UNMOUNTED] * 3
    assert await Operation.filter(finished_at=None).count() == 0
