"""How much somebody may have."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import Forbidden, InvalidInput, NotFound, QuotaExceeded, RemoteGPUError
from remotegpu_core.ids import new_id
from remotegpu_core.models import Allocation, Quota, WorkspaceRole
from remotegpu_core.services import quotas
from remotegpu_core.services.allocations.extend import extend
from remotegpu_core.services.allocations.release import release
from remotegpu_core.services.quotas import Limits, limits_of_user, set_quota, usage
from remotegpu_core.services.workspaces import create_workspace, set_member
from remotegpu_core.settings import Settings, load_settings
from tests.core.people import HOUR, make_tenant
from tests.core.services.allocations.hosts import active, any_gpus, carry_out, get, make_host

pytestmark = pytest.mark.usefixtures("database")


async def test_gpus_and_allocations_at_a_time(settings: Settings, admin: Actor) -> None:
    ada = await make_tenant()
    assert ada.user_id
    host = await make_host("one", 16, grant=[ada])
    assert await limits_of_user(ada.user_id, settings) == Limits(8, 4, None)
    six = await active(ada, settings, host, gpu_ids=host.gpu(*range(6)))
    with pytest.raises(QuotaExceeded, match="6 are taken and this asks for 3"):
        await get(ada, settings, requirement=any_gpus(3))
    await get(ada, settings, requirement=any_gpus(2))
    # Admins are not refused, whomever they give it to; it counts all the same.
    await get(admin, settings, requirement=any_gpus(4), user_id=ada.user_id)
    used = await usage(user_id=ada.user_id)
    assert (used.gpus, used.allocations) == (12, 3)
    await release(ada, six.id)
    assert (await usage(user_id=ada.user_id)).gpus == 12
    await carry_out(six)
    assert (await usage(user_id=ada.user_id)).gpus == 6
    await set_quota(admin, Limits(100, 3, None), user_id=ada.user_id, workspace_id=None)
    await get(ada, settings, requirement=any_gpus(1))
    # A place in the queue counts too, and so does a machine without GPUs.
    bare = await make_host("bare", 0, grant=[ada])
    requests: list[dict[str, Any]] = [
        {"requirement": any_gpus(9), "wait": True},
        {"machine_id": bare.id},
    ]
    for request in requests:
        with pytest.raises(QuotaExceeded, match="allocations"):
            await get(ada, settings, **request)


async def test_gpu_hours_of_a_month(settings: Settings, admin: Actor) -> None:
    ada = await make_tenant()
    host = await make_host("one", 8, grant=[ada])
    await set_quota(admin, Limits(None, None, 10), user_id=ada.user_id, workspace_id=None)
    with pytest.raises(QuotaExceeded, match="GPU-hours"):
        await get(ada, settings, host, gpu_ids=host.gpu(0, 1), length=6 * HOUR)
    one = await active(ada, settings, host, gpu_ids=host.gpu(0), length=6 * HOUR)
    assert (await usage(user_id=ada.user_id)).gpu_hours == pytest.approx(6, abs=0.01)
    with pytest.raises(QuotaExceeded, match="6 are taken"):
        await get(ada, settings, host, gpu_ids=host.gpu(1), length=5 * HOUR)
    with pytest.raises(QuotaExceeded):
        await extend(ada, settings, one.id, one.starts_at + 11 * HOUR)
    await extend(ada, settings, one.id, one.starts_at + 10 * HOUR)
    assert (await usage(user_id=ada.user_id)).gpu_hours == pytest.approx(10, abs=0.01)
    await extend(admin, settings, one.id, one.starts_at + 12 * HOUR)
    # What is given back was not used.
    await release(ada, one.id)
    await carry_out(one)
    assert (await usage(user_id=ada.user_id)).gpu_hours < 0.1
    # Another month is another month.
    begin = now_ms() + 40 * 24 * HOUR
    await get(ada, settings, host, gpu_ids=host.gpu(0), starts_at=begin, length=10 * HOUR)
    assert (await usage(user_id=ada.user_id)).gpu_hours < 0.1
    assert (await usage(user_id=ada.user_id, month_of=begin)).gpu_hours == pytest.approx(
        10, abs=0.01
    )
    await get(ada, settings, host, gpu_ids=host.gpu(1), length=9 * HOUR)


@pytest.mark.parametrize(
    ("moment", "begin", "end"),
    [
        ("2026-12-31T23:59:59", "2026-12-01", "2027-01-01"),
        ("2028-02-29T12:00:00", "2028-02-01", "2028-03-01"),
        ("2026-01-01T00:00:00", "2026-01-01", "2026-02-01"),
    ],
)
def test_months(moment: str, begin: str, end: str) -> None:
    def at(text: str) -> int:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)

    assert quotas._month(at(moment)) == (at(begin), at(end))


async def test_the_workspaces_quota_holds_for_all_in_it(settings: Settings, admin: Actor) -> None:
    ada, bob = await make_tenant(), await make_tenant()
    host = await make_host("one", 8, grant=[ada, bob])
    lab = await create_workspace(admin, "lab")
    for actor in (ada, bob):
        await set_member(admin, lab.id, actor.user_id, WorkspaceRole.MEMBER)
    # Without a quota of its own, a workspace has none.
    assert await quotas.limits_of_workspace(lab.id) == Limits()
    await set_quota(admin, Limits(3, None, None), user_id=None, workspace_id=lab.id)
    await get(ada, settings, host, gpu_ids=host.gpu(0, 1), workspace_id=lab.id)
    with pytest.raises(QuotaExceeded, match="workspace"):
        await get(bob, settings, host, gpu_ids=host.gpu(2, 3), workspace_id=lab.id)
    await get(bob, settings, host, gpu_ids=host.gpu(2), workspace_id=lab.id)
    await get(bob, settings, host, gpu_ids=host.gpu(3, 4))


async def test_at_once_no_more_than_the_quota(settings: Settings, admin: Actor) -> None:
    ada = await make_tenant()
    host = await make_host("one", 16, grant=[ada])
    await set_quota(admin, Limits(5, 100, None), user_id=ada.user_id, workspace_id=None)
    results = await asyncio.gather(
        *(get(ada, settings, host, gpu_ids=host.gpu(index)) for index in range(16)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, Allocation) for result in results) == 5
    assert sum(isinstance(result, QuotaExceeded) for result in results) == 11
    assert (await usage(user_id=ada.user_id)).gpus == 5


async def test_who_sets_them(settings: Settings, admin: Actor) -> None:
    ada = await make_tenant()
    user_id = ada.user_id
    cases: list[tuple[Actor, Limits, dict[str, object], type[RemoteGPUError]]] = [
        (ada, Limits(1), {"user_id": user_id, "workspace_id": None}, Forbidden),
        (admin, Limits(1), {"user_id": None, "workspace_id": None}, InvalidInput),
        (admin, Limits(-1), {"user_id": user_id, "workspace_id": None}, InvalidInput),
        (admin, Limits(1), {"user_id": new_id(), "workspace_id": None}, NotFound),
        (admin, Limits(1), {"user_id": None, "workspace_id": new_id()}, NotFound),
    ]
    for actor, limits, subject, refusal in cases:
        with pytest.raises(refusal):
            await set_quota(actor, limits, **subject)  # type: ignore[arg-type]  # of the right types
    assert await Quota.all().count() == 0
    assert settings.quota_gpus == 8


def test_warnings_are_numbers_of_seconds() -> None:
    assert load_settings(allocation_warnings="60, 3600,60").allocation_warnings == [3600, 60]
    for wrong in ("x", "0", "-5"):
        with pytest.raises(InvalidInput, match="ALLOCATION_WARNINGS"):
            load_settings(allocation_warnings=wrong)
