"""Rows of the logs."""

from remotegpu_core.models import AllocationEvent, AuditEvent, MachineChange, Version
from tests.core.scale.sql import Rows


async def write_logs(rows: Rows) -> None:
    size, users = rows.size, rows.size.users
    async with rows.without_indexes(AuditEvent):
        await rows.insert(
            AuditEvent,
            size.events,
            id=rows.id("AuditEvent"),
            at=f"{rows.now} - ({size.events} - n) * 1000",
            actor_kind="CASE WHEN n % 10 = 9 THEN 'MACHINE' WHEN n % 10 = 8 THEN 'API_TOKEN' "
            "ELSE 'USER' END",
            actor_id=f"CASE WHEN n % 10 = 9 THEN {rows.id('Machine', f'n % {size.machines}')} "
            f"WHEN n % 10 = 8 THEN {rows.id('ApiToken', f'n % {users}')} "
            f"ELSE {rows.id('User', f'n % {users}')} END",
            user_id=f"CASE WHEN n % 10 = 9 THEN NULL ELSE {rows.id('User', f'n % {users}')} END",
            action="'action' || (n % 40)",
            target_type="'Machine'",
            target_id=rows.id("Machine", f"n % {size.machines}"),
            outcome="CASE WHEN n % 100 = 0 THEN 'DENIED' ELSE 'SUCCEEDED' END",
            details=rows.json({"machine": "node-00001"}),
        )
    logged = min(10_000, size.machines)
    await rows.insert(
        MachineChange,
        logged,
        sequence="n + 1",
        machine_id=rows.id("Machine", f"n % {size.machines}"),
        kind="'PRESENCE_CHANGED'",
        at=str(rows.now),
    )
    await rows.insert(
        AllocationEvent,
        logged,
        sequence="n + 1",
        allocation_id=rows.id("Allocation", f"n % {size.allocations}"),
        kind="'CREATED'",
        at=str(rows.now),
    )
    work = size.allocations // 5
    for topic, value in {
        "machine_changes": logged,
        "allocations": logged,
        "operations": work,
        "commands": work,
    }.items():
        await Version.filter(name=topic).update(value=value)
