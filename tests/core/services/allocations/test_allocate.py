"""Asking for machines and GPUs."""

import pytest

from remotegpu_core.actor import Actor, Role
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import Forbidden, InvalidInput, NoCapacity, NotFound
from remotegpu_core.models import (
    Allocation,
    AllocationEvent,
    Booking,
    Command,
    Machine,
    Operation,
    WorkspaceRole,
)
from remotegpu_core.services import maintenance
from remotegpu_core.services.access import visible_ids
from remotegpu_core.services.allocations.allocate import allocate, plan
from remotegpu_core.services.allocations.duty import can_start
from remotegpu_core.services.allocations.reason import ReasonCode
from remotegpu_core.services.allocations.reasons import reasons_of
from remotegpu_core.services.operations import steps_of
from remotegpu_core.services.presence import disconnect
from remotegpu_core.services.workspaces import create_workspace, set_member
from remotegpu_core.settings import Settings
from remotegpu_core.states import AllocationState, OperationState, StepState
from remotegpu_protocol.inventory import Policy
from tests.core.people import HOUR, make_tenant, make_user
from tests.core.services.allocations.hosts import (
    GIB,
    MINUTE,
    POLICY,
    active,
    any_gpus,
    asking,
    carry_out,
    get,
    make_host,
    open_occupancies,
)

pytestmark = pytest.mark.usefixtures("database")


async def test_a_user_gets_gpus_and_the_host_learns_of_it(settings: Settings) -> None:
    ada = await make_tenant()
    host = await make_host("one", 4, grant=[ada])
    allocation, operation = await allocate(
        ada, settings, asking(host, gpu_ids=host.gpu(2, 1)), key="k1"
    )
    assert (allocation.state, allocation.machine_id) == (AllocationState.PENDING, host.id)
    assert (allocation.gpu_count, allocation.whole_machine) == (2, False)
    assert {row.resource_id for row in await open_occupancies(host)} == set(host.gpu(1, 2))
    command = await Command.get(allocation_id=allocation.id)
    assert command.kind == "allocation.start"
    assert command.arguments == {
        "allocation_id": str(allocation.id),
        "username": (await allocation.user).username,
        "whole_machine": False,
        "gpu_uuids": ["GPU-one-1", "GPU-one-2"],
        "ends_at": allocation.ends_at,
    }
    assert command.operation_id == operation.id
    assert [r.code for r in (await reasons_of([allocation.id]))[allocation.id]] == ["STARTING"]

    allocation = await carry_out(allocation)
    assert allocation.state is AllocationState.ACTIVE
    done = await Operation.get(id=operation.id)
    assert (done.state, done.progress) == (OperationState.SUCCEEDED, 1.0)
    steps = (await steps_of([operation.id]))[operation.id]
    assert [(step.name, step.state) for step in steps] == [
        ("reserve", StepState.SUCCEEDED),
        ("start", StepState.SUCCEEDED),
    ]
    events = await AllocationEvent.all().order_by("sequence")
    assert [event.kind for event in events] == ["CREATED", "PLACED", "STARTED"]
    assert await reasons_of([allocation.id]) == {}


async def test_the_whole_machine_excludes_its_gpus_and_the_other_way_round(
    settings: Settings, admin: Actor
) -> None:
    ada = await make_tenant()
    host, bare = await make_host("one", grant=[ada]), await make_host("bare", 0, grant=[ada])
    whole = await get(ada, settings, host)
    assert (whole.whole_machine, whole.gpu_count) == (True, 2)
    for taken in (asking(host), asking(host, gpu_ids=host.gpu(1))):
        with pytest.raises(NoCapacity, match="free from"):
            await allocate(admin, settings, taken)
    # A machine without GPUs is exclusive too.
    await get(ada, settings, bare)
    with pytest.raises(NoCapacity):
        await get(admin, settings, bare)
    second = await make_host("two", grant=[ada])
    await get(ada, settings, second, gpu_ids=second.gpu(0))
    with pytest.raises(NoCapacity):
        await get(admin, settings, second)
    assert await Allocation.all().count() == 3


async def test_a_reservation_binds(settings: Settings, admin: Actor) -> None:
    host = await make_host("one", 1)
    begin = now_ms() + HOUR
    later = await get(admin, settings, host, starts_at=begin)
    assert later.state is AllocationState.PENDING
    assert await open_occupancies(host) == []
    (reason,) = (await reasons_of([later.id]))[later.id]
    assert reason.code is ReasonCode.STARTS_LATER
    for length in (HOUR + 1, 3 * HOUR):
        with pytest.raises(NoCapacity):
            await get(admin, settings, host, length=length)
    # Half-open: one ends when the next begins.
    now = now_ms()
    before, _ = await allocate(admin, settings, asking(host, ends_at=begin, starts_at=now))
    after = await get(admin, settings, host, starts_at=later.ends_at)
    assert {before.state, after.state} == {AllocationState.PENDING}
    assert await Booking.filter(held=True).count() == 6


async def test_best_fit(settings: Settings, admin: Actor) -> None:
    ada = await make_tenant()
    big = await make_host("a-big", 8, grant=[ada])
    small = await make_host("b-small", 2, grant=[ada])
    await make_host("c-foreign", 1)
    cheap = await make_host("d-cheap", 2, memory=40 * GIB, model="NVIDIA A100", grant=[ada])
    two = await get(ada, settings, requirement=any_gpus(2, gpu_model="h100"))
    assert two.machine_id == small.id
    one = await get(ada, settings, requirement=any_gpus(1))
    assert one.machine_id == cheap.id
    strong = await get(ada, settings, requirement=any_gpus(1, gpu_memory_at_least=80 * GIB))
    assert strong.machine_id == big.id
    with pytest.raises(NoCapacity, match="gpuModel"):
        await get(ada, settings, requirement=any_gpus(1, gpu_model="B200"))
    await maintenance.set_labels(admin, big.id, [("rack", "a1")])
    labelled = any_gpus(1, labels=(("rack", "a1"),))
    assert (await get(ada, settings, requirement=labelled)).machine_id == big.id
    with pytest.raises(NoCapacity):
        await get(ada, settings, requirement=any_gpus(1, labels=(("rack", "a2"),)))
    # A whole machine all of whose GPUs are as asked.
    bare = any_gpus(None, gpu_model="A100")
    with pytest.raises(NoCapacity):
        await get(admin, settings, requirement=bare)


async def test_what_is_in_the_way(settings: Settings, admin: Actor) -> None:
    drained, gone, fixed, monitored, held = [
        await make_host(name) for name in ("drained", "gone", "fixed", "monitored", "held")
    ]
    await maintenance.set_draining(admin, drained.id, True)
    await disconnect(gone.id, gone.epoch, last_seen_at=now_ms())
    await maintenance.start_maintenance(admin, fixed.id, "new fans")
    await Machine.filter(id=held.id).update(command_hold="cloned")
    await Machine.filter(id=monitored.id).update(host={"hostname": "x", "policy": {}})
    for host, code in (
        (drained, ReasonCode.MACHINE_DRAINING),
        (gone, ReasonCode.MACHINE_OFFLINE),
        (fixed, ReasonCode.MACHINE_OUT_OF_SERVICE),
        (held, ReasonCode.HOST_NOT_ACCEPTED),
        (monitored, ReasonCode.NOT_ENABLED),
    ):
        planned = await plan(admin, settings, asking(host))
        assert (planned.machine_id, [r.code for r in planned.reasons]) == (None, [code])
        with pytest.raises(NoCapacity) as refused:
            await get(admin, settings, host)
        assert refused.value.message.startswith(planned.reasons[0].message)
        assert refused.value.field == ["machineId"]
    with pytest.raises(NoCapacity):
        await get(admin, settings, requirement=any_gpus(1))
    # Each kind that its life takes, not only the first.
    for kind in POLICY.commands:
        left = [other for other in POLICY.commands if other != kind]
        await Machine.filter(id=monitored.id).update(
            host={"hostname": "x", "policy": {"commands": left}}
        )
        for starts_at in (None, now_ms() + HOUR):
            planned = await plan(admin, settings, asking(monitored, starts_at=starts_at))
            assert [reason.code for reason in planned.reasons] == [ReasonCode.NOT_ENABLED]
            assert f"{kind} is missing" in planned.reasons[0].message
    # What is away now may be back by then.
    assert (await get(admin, settings, gone, starts_at=now_ms() + HOUR)).machine_id == gone.id


async def test_a_host_that_could_prove_no_cleaning_gets_nothing(
    settings: Settings, admin: Actor
) -> None:
    host = await make_host("one", 2)
    row = await Machine.get(id=host.id)
    told = {**row.host, "cleaning_obstacles": ["sign-in: usermod is not installed on this host."]}
    await Machine.filter(id=host.id).update(host=told)
    planned = await plan(admin, settings, asking(host))
    assert [reason.code for reason in planned.reasons] == [ReasonCode.NOT_PROVABLE]
    assert "usermod is not installed" in planned.reasons[0].message
    with pytest.raises(NoCapacity):
        await get(admin, settings, requirement=any_gpus(1))
    await Machine.filter(id=host.id).update(host=row.host)
    assert (await get(admin, settings, requirement=any_gpus(1))).machine_id == host.id


async def test_a_host_that_cannot_keep_gpus_apart_is_not_shared(
    settings: Settings, admin: Actor
) -> None:
    host = await make_host("one", 2)
    isolation = {"kind": "WHOLE_MACHINE_ONLY", "reason": "The driver would undo it."}
    row = await Machine.get(id=host.id)
    await Machine.filter(id=host.id).update(host={**row.host, "gpu_isolation": isolation})
    planned = await plan(admin, settings, asking(host, gpu_ids=(host.gpus[0].id,)))
    assert [reason.code for reason in planned.reasons] == [ReasonCode.NOT_SHARED]
    assert "The driver would undo it." in planned.reasons[0].message
    with pytest.raises(NoCapacity):
        await get(admin, settings, requirement=any_gpus(1))
    # One that was promised before waits, and says why.
    await Machine.filter(id=host.id).update(host=row.host)
    later = await get(admin, settings, host, gpu_ids=(host.gpus[0].id,), starts_at=now_ms() + HOUR)
    await Machine.filter(id=host.id).update(host={**row.host, "gpu_isolation": isolation})
    whole = await get(admin, settings, host, length=30 * MINUTE)
    assert (whole.machine_id, whole.whole_machine) == (host.id, True)
    assert not can_start(await Machine.get(id=host.id), shared=not later.whole_machine)
    assert can_start(await Machine.get(id=host.id), shared=not whole.whole_machine)


async def test_a_plan_is_what_would_happen(settings: Settings, admin: Actor) -> None:
    host = await make_host("one", 2)
    request = asking(requirement=any_gpus(2))
    planned = await plan(admin, settings, request)
    assert (planned.machine_id, planned.gpu_ids) == (host.id, host.gpu(0, 1))
    assert planned.reasons == ()
    assert await Allocation.all().count() == 0
    first = await get(admin, settings, host, gpu_ids=host.gpu(0), length=10 * MINUTE)
    planned = await plan(admin, settings, asking(requirement=any_gpus(2), length=HOUR))
    assert (planned.machine_id, planned.starts_at) == (None, first.ends_at)
    assert [reason.code for reason in planned.reasons] == [ReasonCode.NO_CAPACITY]
    planned = await plan(admin, settings, asking(requirement=any_gpus(2), length=5 * MINUTE))
    assert planned.starts_at is None
    ada = await make_tenant()
    await make_host("two", 16, grant=[ada])
    planned = await plan(ada, settings, asking(requirement=any_gpus(9)))
    assert [reason.code for reason in planned.reasons] == [ReasonCode.QUOTA]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({}, ["machineId"]),
        ({"requirement": any_gpus(0)}, ["requirement", "gpuCount"]),
        ({"requirement": any_gpus(65)}, ["requirement", "gpuCount"]),
        ({"requirement": any_gpus(1, gpu_model="\x00")}, ["requirement", "gpuModel"]),
        ({"requirement": any_gpus(1, labels=(("k" * 64, "v"),))}, ["requirement", "labels"]),
        ({"requirement": any_gpus(1), "starts_at": 1}, ["startsAt"]),
        ({"requirement": any_gpus(1), "starts_at": 2**50}, ["startsAt"]),
        ({"requirement": any_gpus(1), "ends_at": 1}, ["endsAt"]),
        ({"requirement": any_gpus(1), "length": 367 * 24 * HOUR}, ["endsAt"]),
        ({"requirement": any_gpus(1), "gpu_ids": ()}, ["gpuIds"]),
    ],
)
async def test_what_can_never_be(
    sqlite_settings: Settings, admin: Actor, values: dict[str, object], field: list[str]
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await allocate(admin, sqlite_settings, asking(**values))  # type: ignore[arg-type]  # wrong ones on purpose
    assert refused.value.field == field


async def test_gpus_of_the_machine_each_once(settings: Settings, admin: Actor) -> None:
    host, other = await make_host("one"), await make_host("two")
    with pytest.raises(InvalidInput):
        await get(admin, settings, host, gpu_ids=host.gpu(0, 0))
    with pytest.raises(NotFound):
        await get(admin, settings, host, gpu_ids=other.gpu(0))


async def test_who_may_have_what(settings: Settings, admin: Actor) -> None:
    ada, bob, eve = [await make_tenant() for _ in range(3)]
    assert ada.user_id
    assert bob.user_id
    host = await make_host("one", 8, grant=[ada])
    foreign = await make_host("foreign", 8)
    with pytest.raises(NotFound):
        await get(ada, settings, foreign, gpu_ids=foreign.gpu(0))
    with pytest.raises(NotFound):
        await get(ada, settings, host, user_id=bob.user_id)
    # An admin gives what is not granted, and its user sees the machine for as long, and no more.
    assert await visible_ids(bob) == set()
    given = await active(admin, settings, foreign, gpu_ids=foreign.gpu(0), user_id=bob.user_id)
    assert given.user_id == bob.user_id
    assert await visible_ids(bob) == {foreign.id}
    with pytest.raises(Forbidden, match="granted"):
        await get(bob, settings, foreign, gpu_ids=foreign.gpu(1))
    with pytest.raises(NoCapacity):
        await get(bob, settings, requirement=any_gpus(1))

    lab = await create_workspace(admin, "lab")
    with pytest.raises(NotFound):
        await get(ada, settings, host, gpu_ids=host.gpu(0), workspace_id=lab.id)
    for actor, role in (
        (ada, WorkspaceRole.VIEWER),
        (bob, WorkspaceRole.ADMIN),
        (eve, WorkspaceRole.MEMBER),
    ):
        await set_member(admin, lab.id, actor.user_id, role)
    with pytest.raises(Forbidden):
        await get(ada, settings, host, gpu_ids=host.gpu(0), workspace_id=lab.id)
    with pytest.raises(Forbidden):
        await get(eve, settings, requirement=any_gpus(1), workspace_id=lab.id, user_id=bob.user_id)
    await set_member(admin, lab.id, ada.user_id, WorkspaceRole.MEMBER)
    own = await get(ada, settings, host, gpu_ids=host.gpu(0), workspace_id=lab.id)
    assert own.workspace_id == lab.id
    by_bob = await get(
        bob, settings, requirement=any_gpus(1), workspace_id=lab.id, user_id=ada.user_id
    )
    assert (by_bob.user_id, by_bob.machine_id) == (ada.user_id, host.id)
    disabled = await make_user()
    await type(disabled).filter(id=disabled.id).update(disabled_at=1)
    with pytest.raises(Forbidden, match="disabled"):
        await get(admin, settings, host, user_id=disabled.id)
    assert ada.role is Role.USER


async def test_a_host_without_policy_is_monitored_only(settings: Settings, admin: Actor) -> None:
    host = await make_host("one", policy=Policy())
    with pytest.raises(NoCapacity, match="policy"):
        await get(admin, settings, host)
