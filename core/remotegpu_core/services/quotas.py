"""How much a user or a workspace may have, and has."""

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, cast

from tortoise.expressions import Q

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import InvalidInput, NotFound, QuotaExceeded, check_one_of
from remotegpu_core.models import Allocation, Quota, User, Workspace
from remotegpu_core.services import audit
from remotegpu_core.services.ledger import ledger
from remotegpu_core.settings import Settings
from remotegpu_core.states import FINAL, AllocationState

#: States of an allocation that counts at the moment.
LIVE: Final = tuple(state for state in AllocationState if state not in FINAL)
_HOUR: Final = 3_600_000
#: More than anybody has, and what a column holds.
MAX_LIMIT: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """None is no limit. `gpu_hours` a calendar month (UTC) in which allocations start."""

    gpus: int | None = None
    allocations: int | None = None
    gpu_hours: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """GPUs and allocations of this moment, waiting ones included; GPU-hours of this month."""

    gpus: int
    allocations: int
    gpu_hours: float


@dataclass(frozen=True, slots=True)
class Claim:
    """What somebody is about to have. One that exists and is to last longer has no more
    `allocations`, nor `more_gpus`, only more hours."""

    gpus: int
    starts_at: int
    ends_at: int
    allocations: int = 1
    more_gpus: bool = True


async def limits_of_user(user_id: uuid.UUID, settings: Settings) -> Limits:
    return _limits(await Quota.get_or_none(user_id=user_id), _defaults(settings))


async def limits_of_workspace(workspace_id: uuid.UUID) -> Limits:
    return _limits(await Quota.get_or_none(workspace_id=workspace_id), Limits())


async def usage(
    *,
    user_id: uuid.UUID | None = None,
    workspace_id: uuid.UUID | None = None,
    month_of: int | None = None,
    without: uuid.UUID | None = None,
) -> Usage:
    """What a user, or a workspace, has; `month_of` is a moment of the month to count hours of.

    `without` leaves one allocation out.
    """
    if user_id is not None:
        return (await _used("user_id", [user_id], month_of, without))[user_id]
    if workspace_id is None:
        raise ValueError("expected a user or a workspace")
    return (await _used("workspace_id", [workspace_id], month_of, without))[workspace_id]


async def of_users(
    user_ids: Sequence[uuid.UUID], settings: Settings
) -> dict[uuid.UUID, tuple[Limits, Usage]]:
    """What each of these users may have, and has; a fixed number of queries."""
    rows = {row.user_id: row for row in await Quota.filter(user_id__in=list(user_ids))}
    used = await _used("user_id", user_ids)
    return {
        user_id: (_limits(rows.get(user_id), _defaults(settings)), used[user_id])
        for user_id in user_ids
    }


async def of_workspaces(
    workspace_ids: Sequence[uuid.UUID],
) -> dict[uuid.UUID, tuple[Limits, Usage]]:
    """What each of these workspaces may have, and has; a fixed number of queries."""
    found = await Quota.filter(workspace_id__in=list(workspace_ids))
    rows = {row.workspace_id: row for row in found}
    used = await _used("workspace_id", workspace_ids)
    return {
        workspace_id: (_limits(rows.get(workspace_id), Limits()), used[workspace_id])
        for workspace_id in workspace_ids
    }


async def check(
    user_id: uuid.UUID,
    workspace_id: uuid.UUID | None,
    claim: Claim,
    settings: Settings,
    *,
    without: uuid.UUID | None = None,
) -> None:
    """Whether both the user and the workspace may have that much more, within a `ledger`.

    Raises:
        QuotaExceeded: one of them may not; the message says how much is left.
    """
    used = await usage(user_id=user_id, month_of=claim.starts_at, without=without)
    _compare("You", await limits_of_user(user_id, settings), used, claim)
    if workspace_id is not None:
        used = await usage(workspace_id=workspace_id, month_of=claim.starts_at, without=without)
        _compare("The workspace", await limits_of_workspace(workspace_id), used, claim)


async def set_quota(
    actor: Actor,
    limits: Limits,
    *,
    user_id: uuid.UUID | None,
    workspace_id: uuid.UUID | None,
) -> None:
    """Give a user or a workspace other limits; admins only. What they have stays.

    A limit that is None is the setting's for a user, none for a workspace.

    Raises:
        InvalidInput: not exactly one of the two, or a limit is out of range.
        NotFound: there is no such user or workspace.
    """
    actor.require_admin()
    check_one_of(("userId", user_id), ("workspaceId", workspace_id))
    values: dict[str, Any] = {
        "gpus": limits.gpus,
        "allocations": limits.allocations,
        "gpu_hours": limits.gpu_hours,
    }
    for name, field in (
        ("gpus", "gpus"),
        ("allocations", "allocations"),
        ("gpu_hours", "gpuHours"),
    ):
        value = values[name]
        if value is not None and not 0 <= value <= MAX_LIMIT:
            raise InvalidInput(f"{field} is 0 to {MAX_LIMIT}, got {value}.", field=field)
    subject: dict[str, Any]
    if user_id is not None:
        if not await User.exists(id=user_id):
            raise NotFound("There is no such user.", field="userId")
        subject, target = {"user_id": user_id}, ("User", user_id)
    else:
        assert workspace_id is not None  # noqa: S101 - for the type checkers, checked above
        if not await Workspace.exists(id=workspace_id):
            raise NotFound("There is no such workspace.", field="workspaceId")
        subject, target = {"workspace_id": workspace_id}, ("Workspace", workspace_id)
    async with ledger():
        if not await Quota.filter(**subject).update(**values):
            await Quota.create(**subject, **values)
        details = {name: "none" if value is None else str(value) for name, value in values.items()}
        await audit.record(actor, "setQuota", target=target, details=details)


def _defaults(settings: Settings) -> Limits:
    return Limits(settings.quota_gpus, settings.quota_allocations, settings.quota_gpu_hours)


def _limits(row: Quota | None, defaults: Limits) -> Limits:
    if row is None:
        return defaults
    return Limits(
        defaults.gpus if row.gpus is None else row.gpus,
        defaults.allocations if row.allocations is None else row.allocations,
        defaults.gpu_hours if row.gpu_hours is None else row.gpu_hours,
    )


async def _used(
    whose: str,
    ids: Sequence[uuid.UUID],
    month_of: int | None = None,
    without: uuid.UUID | None = None,
) -> dict[uuid.UUID, Usage]:
    """Usage by user or workspace: `whose` is the column that names them."""
    query = Allocation.filter(**{f"{whose}__in": list(ids)})
    if without is not None:
        query = query.exclude(id=without)
    begin, end = _month(now_ms() if month_of is None else month_of)
    rows = cast(
        "list[tuple[uuid.UUID, AllocationState, int, int, int, int | None]]",
        await query.filter(
            Q(state__in=LIVE) | Q(starts_at__gte=begin, starts_at__lt=end)
        ).values_list(whose, "state", "gpu_count", "starts_at", "ends_at", "ended_at"),
    )
    gpus, allocations, spent = Counter[uuid.UUID](), Counter[uuid.UUID](), Counter[uuid.UUID]()
    for owner, state, count, starts_at, ends_at, ended_at in rows:
        if state in LIVE:
            gpus[owner] += count
            allocations[owner] += 1
        if begin <= starts_at < end:
            # One that was given back before it began booked nothing.
            spent[owner] += count * max(0, min(ends_at, ended_at or ends_at) - starts_at)
    return {owner: Usage(gpus[owner], allocations[owner], spent[owner] / _HOUR) for owner in ids}


def _compare(who: str, limits: Limits, used: Usage, claim: Claim) -> None:
    hours = claim.gpus * (claim.ends_at - claim.starts_at) / _HOUR
    for name, limit, has, more in (
        ("GPUs at a time", limits.gpus, used.gpus, claim.gpus if claim.more_gpus else 0),
        ("allocations at a time", limits.allocations, used.allocations, claim.allocations),
        ("GPU-hours this month", limits.gpu_hours, used.gpu_hours, hours),
    ):
        # What asks for no more of something is not refused for it.
        if limit is not None and more > 0 and has + more > limit:
            raise QuotaExceeded(
                f"{who} may have {limit} {name}: {round(has, 1):g} are taken and this asks "
                f"for {round(more, 1):g}. "
                "Release something, ask for less, or ask an admin for a larger quota."
            )


def _month(moment: int) -> tuple[int, int]:
    """The calendar month (UTC) of a moment, [begin, end) in milliseconds."""
    day = datetime.fromtimestamp(moment / 1000, UTC)
    begin = datetime(day.year, day.month, 1, tzinfo=UTC)
    end = datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC)
    return int(begin.timestamp()) * 1000, int(end.timestamp()) * 1000
