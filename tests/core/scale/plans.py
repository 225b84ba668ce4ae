"""How the database does what the lists ask of it: none may read a large table from end to end."""

import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Final

from tortoise.connection import get_connection

from remotegpu_core.actor import Actor
from remotegpu_core.bus.bus import Bus
from remotegpu_core.clock import now_ms
from remotegpu_core.models import Machine, Outcome, User, Workspace
from remotegpu_core.paging import Page, PageRequest
from remotegpu_core.services import api_tokens, enrollments, ssh_keys, users, workspaces
from remotegpu_core.services.allocations.allocate import plan
from remotegpu_core.services.allocations.reading import (
    AllocationFilter,
    AllocationOrderField,
    list_allocations,
)
from remotegpu_core.services.allocations.request import AllocateRequest, Requirement
from remotegpu_core.services.audit import AuditFilter, list_events
from remotegpu_core.services.datasets.reading import (
    DatasetFilter,
    DatasetOrderField,
    list_datasets,
)
from remotegpu_core.services.fleet import summarise
from remotegpu_core.services.gpu_memory import gpu_memory_by_user
from remotegpu_core.services.gpus import GpuFilter, GpuOrderField, list_gpus
from remotegpu_core.services.machines import MachineFilter, MachineOrderField, list_machines
from remotegpu_core.settings import Settings
from remotegpu_core.states import AllocationState, Availability
from tests.core.people import make_actor, make_admin
from tests.core.scale.sql import HOUR, row_id

#: Tables that grow with time or with all that a fleet does. `machine` and `gpu_group` have one row
#: a machine: some questions are about each of them.
LARGE: Final = frozenset(
    (
        *("audit_event", "allocation", "allocation_event", "booking", "occupancy", "gpu"),
        *("cleaning_receipt", "command", "operation", "operation_step", "machine_change"),
        *("machine_label", "machine_grant", "session", "api_token", "ssh_key"),
    )
)

List = Callable[[PageRequest], Awaitable[Page[Any]]]
Question = tuple[str, Callable[[], Awaitable[object]]]


def of(
    service: Callable[..., Awaitable[Page[Any]]], actor: Actor, *rest: object, **named: object
) -> List:
    """A list as one actor asks for it."""
    return lambda page: service(actor, page, *rest, **named)


def lists(admin: Actor, tenant: Actor) -> Iterator[tuple[str, List]]:
    """Every list of the graph, in each order and with each of its filters."""
    for who, actor in (("admin", admin), ("tenant", tenant)):
        for order in AllocationOrderField:
            yield (
                f"allocations by {order}, {who}",
                of(list_allocations, actor, AllocationFilter(), order_field=order),
            )
        for name, allocations in {
            "user": AllocationFilter(user_id=row_id(User, 3)),
            "workspace": AllocationFilter(workspace_id=row_id(Workspace, 3)),
            "machine": AllocationFilter(machine_id=row_id(Machine, 3)),
            "state": AllocationFilter(state=[AllocationState.RECLAIMING]),
            "mine": AllocationFilter(mine=True),
        }.items():
            yield (
                f"allocations of a {name}, {who}",
                of(list_allocations, actor, allocations),
            )
        for machine_order in MachineOrderField:
            yield (
                f"machines by {machine_order}, {who}",
                of(list_machines, actor, MachineFilter(), order_field=machine_order),
            )
        for name, machines in {
            **{str(value): MachineFilter(availability=[value]) for value in Availability},
            "label": MachineFilter(labels=[("rack", "rack-3")]),
            "model": MachineFilter(gpu_model="h100"),
            "text": MachineFilter(text="node-0000007"),
            "free": MachineFilter(free_gpus=("h100", 2)),
            "free of any": MachineFilter(free_gpus=(None, 2)),
            "mine": MachineFilter(mine=True),
        }.items():
            yield (
                f"machines, {name}, {who}",
                of(list_machines, actor, machines),
            )
        for gpu_order in GpuOrderField:
            yield (
                f"GPUs by {gpu_order}, {who}",
                of(list_gpus, actor, GpuFilter(), order_field=gpu_order),
            )
        for name, events in {
            "all": AuditFilter(),
            "user": AuditFilter(user_id=row_id(User, 3)),
            "actor": AuditFilter(actor_id=row_id(Machine, 3)),
            "action": AuditFilter(action="action3"),
            "target": AuditFilter(target_id=row_id(Machine, 3)),
            "outcome": AuditFilter(outcome=Outcome.DENIED),
            "failed": AuditFilter(outcome=Outcome.FAILED),
            "times": AuditFilter(since=1, until=2),
        }.items():
            yield (
                f"audit, {name}, {who}",
                of(list_events, actor, events),
            )
        for dataset_order in DatasetOrderField:
            yield (
                f"datasets by {dataset_order}, {who}",
                of(list_datasets, actor, DatasetFilter(), order_field=dataset_order),
            )
        yield (
            f"workspaces, {who}",
            of(workspaces.list_workspaces, actor),
        )
        yield f"keys, {who}", of(ssh_keys.list_ssh_keys, actor)
        yield f"tokens, {who}", of(api_tokens.list_api_tokens, actor)
    yield "users", of(users.list_users, admin)
    yield "enrolments", of(enrollments.list_enrollments, admin)


class _Statements(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.seen: list[tuple[str, list[Any]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        query, values = record.args if isinstance(record.args, tuple) else (record.msg, None)
        self.seen.append((str(query), list(values or [])))  # type: ignore[call-overload]  # what Tortoise logs


@contextlib.contextmanager
def statements() -> Iterator[list[tuple[str, list[Any]]]]:
    """What runs within the block, with its values."""
    logger, handler = logging.getLogger("tortoise.db_client"), _Statements()
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield handler.seen
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


async def full_scans(query: str, values: list[Any]) -> AsyncIterator[str]:
    """Steps of a statement's plan that read a large table from end to end."""
    client = get_connection("default")
    if client.capabilities.dialect == "sqlite":
        rows = await client.execute_query_dict(f"EXPLAIN QUERY PLAN {query}", values)
        pattern = r"SCAN (\w+)(?! USING)(?:\s|$)"
        steps = [row["detail"] for row in rows]
    else:
        rows = await client.execute_query_dict(f"EXPLAIN {query}", values)
        steps = [row["QUERY PLAN"] for row in rows]
        pattern = r"Seq Scan on (\w+)"
    for step in steps:
        found = re.search(pattern, step)
        if found and _table(found[1], query) in LARGE:
            yield step


def _table(name: str, query: str) -> str:
    """The table behind an alias."""
    found = re.search(rf'"?(\w+)"? (?:AS )?"?{name}"?\b', query)
    return found[1] if found and found[1] in LARGE else name


def questions(settings: Settings, bus: Bus, admin: Actor, tenant: Actor) -> Iterator[Question]:
    """What else is asked of the whole fleet: by name, as a coroutine to await."""
    for who, actor in (("admin", admin), ("tenant", tenant)):
        for name, needed in {
            "two GPUs": Requirement(2),
            "an H100": Requirement(1, "h100", 2**30),
            "a whole machine": Requirement(),
            "labelled": Requirement(1, labels=(("rack", "rack-3"),)),
            "more than there is": Requirement(64),
        }.items():
            yield (
                f"plan {name}, {who}",
                partial(
                    plan,
                    actor,
                    settings,
                    AllocateRequest(ends_at=now_ms() + HOUR, requirement=needed),
                ),
            )
        yield f"GPU memory by user, {who}", partial(gpu_memory_by_user, actor, bus)
    yield "fleet", lambda: summarise(bus, None)


async def planned(settings: Settings, bus: Bus) -> dict[str, list[str]]:
    """Full scans of large tables by what asks for them, of the rows that `Fleet` wrote."""
    admin, tenant = await people()
    found: dict[str, list[str]] = {}
    asked: list[Question] = list(questions(settings, bus, admin, tenant))
    for name, listed in lists(admin, tenant):
        asked.append((name, partial(_pages, listed)))
    for name, ask in asked:
        with statements() as seen:
            await ask()
        found[name] = [
            f"{step}: {query}"
            for query, values in seen
            if query.startswith("SELECT")
            async for step in full_scans(query, values)
        ]
    return found


async def _pages(listed: List) -> None:
    """The first page, the one after it, and the last."""
    page = await listed(PageRequest(first=5))
    if page.cursors:
        await listed(PageRequest(first=5, after=page.cursors[-1]))
        await listed(PageRequest(last=5, before=page.cursors[-1]))


async def people() -> tuple[Actor, Actor]:
    """An admin, and a user of the fleet's."""
    return await make_admin(), await make_actor(await User.get(id=row_id(User, 3)))
