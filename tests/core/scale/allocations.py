"""Rows of allocations, and of what they hold."""
# ruff: noqa: S608 - all that goes into the SQL is of this file

from collections.abc import Mapping
from typing import Final

from remotegpu_core.models import (
    Allocation,
    Booking,
    CleaningReceipt,
    Occupancy,
)
from tests.core.scale.sql import GPUS, HOUR, Rows

_WISH: Final[Mapping[str, object]] = {
    "machine_id": None,
    "gpu_ids": None,
    "requirement": {
        "gpu_count": 2,
        "gpu_model": "nothing has it",
        "gpu_memory_at_least": None,
        "labels": [],
    },
    "bound": True,
    "unmet": None,
}


async def write_allocations(rows: Rows) -> None:
    count, machines = rows.size.allocations, rows.size.machines
    over = rows.live
    placed = rows.active + rows.reclaiming
    future = placed + rows.reserved
    whole = f"(n < {over} AND n % 2 = 0)"
    # Those that are over follow each other on their machine.
    began = (
        f"CASE WHEN n < {placed} THEN {rows.now - HOUR} WHEN n < {over} "
        f"THEN {rows.now + 24 * HOUR} ELSE {rows.now} - n * {HOUR} END"
    )
    await rows.insert(
        Allocation,
        count,
        id=rows.id("Allocation"),
        state=f"CASE WHEN n < {rows.active} THEN 'ACTIVE' WHEN n < {placed} THEN 'RECLAIMING' "
        f"WHEN n < {over} THEN 'PENDING' ELSE 'RELEASED' END",
        user_id=rows.id("User", f"n % {rows.size.users}"),
        workspace_id=f"CASE WHEN n % 3 = 0 THEN {rows.id('Workspace', rows.workspace)} END",
        machine_id=f"CASE WHEN n < {future} OR n >= {over} "
        f"THEN {rows.id('Machine', f'n % {machines}')} END",
        whole_machine=whole,
        gpu_count=f"CASE WHEN {whole} THEN {GPUS} ELSE 2 END",
        requirement=rows.json(_WISH),
        queued=f"n >= {future} AND n < {over}",
        starts_at=began,
        ends_at=f"{began} + {HOUR} * CASE WHEN n < {over} THEN 8 ELSE 1 END",
        generation=f"CASE WHEN n < {placed} OR n >= {over} THEN 1 ELSE 0 END",
        created_by_id=rows.id("User", f"n % {rows.size.users}"),
        created_at=f"{rows.now} - n * 1000",
    )
    await rows.insert(
        CleaningReceipt,
        count - over,
        id=rows.id("CleaningReceipt", f"n + {over}"),
        allocation_id=rows.id("Allocation", f"n + {over}"),
        verified="TRUE",
        finished_at=f"{rows.now} - n * 1000",
    )
    # The machine and its GPUs, or two GPUs.
    claims = (
        f"(SELECT n AS a, g FROM ({rows.series(count)}) AS s, "
        f"({rows.series(GPUS + 1, 'g')}) AS t "
        f"WHERE (n < {future} OR n >= {over}) AND "
        f"CASE WHEN n < {over} AND n % 2 = 0 THEN TRUE ELSE g BETWEEN 1 AND 2 END)"
    )
    machine = rows.id("Machine", f"a % {machines}")
    gpu = rows.id("Gpu", f"(a % {machines}) * {GPUS} + g - 1")
    claimed = {
        "allocation_id": rows.id("Allocation", "a"),
        "resource_id": f"CASE WHEN g = 0 THEN {machine} ELSE {gpu} END",
        "machine_id": machine,
        "gpu_id": f"CASE WHEN g = 0 THEN NULL ELSE {gpu} END",
    }
    began = began.replace("n ", "a ").replace("- n", "- a")
    await rows.insert(
        Booking,
        claims,
        id=rows.id("Booking", f"a * {GPUS + 1} + g"),
        **claimed,
        starts_at=began,
        ends_at=f"{began} + {HOUR} * CASE WHEN a < {over} THEN 8 ELSE 1 END",
        held="TRUE",
    )
    await rows.insert(
        Occupancy,
        f"{claims[:-1]} AND (n < {placed} OR n >= {over}))",
        id=rows.id("Occupancy", f"a * {GPUS + 1} + g"),
        **claimed,
        opened_at=began,
        closed_at=f"CASE WHEN a >= {over} THEN {rows.now} END",
        receipt_id=f"CASE WHEN a >= {over} THEN {rows.id('CleaningReceipt', 'a')} END",
    )
    await rows.client.execute_script(
        "UPDATE booking SET held = FALSE WHERE EXISTS (SELECT 1 FROM allocation "
        "WHERE allocation.id = allocation_id AND state = 'RELEASED')"
    )
