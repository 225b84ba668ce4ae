"""Rows of operations and their commands, and of datasets."""

from remotegpu_core.models import Command, Dataset, DatasetGrant, Operation, OperationStep
from tests.core.scale.sql import HOUR, Rows


async def write_work(rows: Rows) -> None:
    """Operations and commands of a fifth of the allocations: older ones were pruned."""
    count = rows.size.allocations // 5
    machine = rows.id("Machine", f"n % {rows.size.machines}")
    await rows.insert(
        Operation,
        count,
        id=rows.id("Operation"),
        kind="'allocate'",
        state="'SUCCEEDED'",
        progress="1.0",
        machine_id=machine,
        allocation_id=rows.id("Allocation"),
        user_id=rows.id("User", f"n % {rows.size.users}"),
        change="n + 1",
        finished_at=str(rows.now),
    )
    await rows.insert(
        OperationStep,
        count * 3,
        id=rows.id("OperationStep"),
        operation_id=rows.id("Operation", "n / 3"),
        position="n % 3",
        name="'step-' || (n % 3)",
        state="'SUCCEEDED'",
    )
    await rows.insert(
        Command,
        count,
        id=rows.id("Command"),
        machine_id=machine,
        sequence="n + 1",
        kind="'allocation.start'",
        arguments=rows.json({}),
        deadline=str(rows.now + HOUR),
        allocation_id=rows.id("Allocation"),
        operation_id=rows.id("Operation"),
        state=f"CASE WHEN n < {rows.size.machines // 100} THEN 'QUEUED' ELSE 'SUCCEEDED' END",
        finished_at=f"CASE WHEN n < {rows.size.machines // 100} THEN NULL ELSE {rows.now} END",
    )
    users = rows.size.users
    await rows.insert(
        Dataset,
        users * 2,
        id=rows.id("Dataset"),
        owner_id=rows.id("User", f"n % {users}"),
        name=rows.name("data"),
        name_key=rows.name("data"),
        kind="'S3'",
        location=rows.name("bucket-"),
        visibility="CASE WHEN n % 10 = 0 THEN 'PUBLIC' ELSE 'PRIVATE' END",
    )
    await rows.insert(
        DatasetGrant,
        users * 2,
        id=rows.id("DatasetGrant"),
        dataset_id=rows.id("Dataset"),
        user_id=rows.id("User", f"(n + 7) % {users}"),
        access="'READ_ONLY'",
    )
