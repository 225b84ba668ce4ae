"""Rows of machines, and of what hangs on them."""

from typing import Final

from remotegpu_core.models import (
    Enrollment,
    Gpu,
    Machine,
    MachineAddress,
    MachineGrant,
    MachineLabel,
)
from tests.core.scale.sql import GPUS, Rows

MODELS: Final = ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB", "NVIDIA L40S", "Tesla V100")

_POLICY: Final = ["allocation.start", "allocation.update", "allocation.end", "account.ensure"]


async def write_machines(rows: Rows) -> None:
    count, users = rows.size.machines, rows.size.users
    host = {"hostname": "node", "policy": {"commands": _POLICY}, "note": "x" * 1500}
    await rows.insert(
        Machine,
        count,
        id=rows.id("Machine"),
        name=rows.name("node-"),
        name_key=rows.name("node-"),
        public_key="randomblob(32)" if rows.sqlite else "decode(lpad(to_hex(n), 64, '0'), 'hex')",
        boot_id=rows.name("boot-"),
        journal_id=rows.name("journal-"),
        epoch="1",
        presence="CASE WHEN n % 50 = 0 THEN 'UNREACHABLE' WHEN n % 77 = 0 THEN 'LOST' "
        "ELSE 'ONLINE' END",
        lifecycle="CASE WHEN n % 100 = 99 THEN 'QUARANTINED' ELSE 'IN_SERVICE' END",
        health="'HEALTHY'",
        last_seen_at=str(rows.now),
        inventory_at=str(rows.now),
        host=rows.json(host),
        created_at=f"{rows.now} - n * 1000",
    )
    models = " ".join(f"WHEN {at} THEN '{name}'" for at, name in enumerate(MODELS))
    await rows.insert(
        Gpu,
        count * GPUS,
        id=rows.id("Gpu"),
        machine_id=rows.id("Machine", f"n / {GPUS}"),
        index=f"n % {GPUS}",
        uuid=rows.name("GPU-"),
        model=f"CASE (n / {GPUS}) % {len(MODELS)} {models} END",
        memory_total=f"CASE (n / {GPUS}) % 2 WHEN 0 THEN {80 * 2**30} ELSE {40 * 2**30} END",
        details=rows.json({"serial": "x" * 100}),
    )
    for place, (key, value) in enumerate((("site", "n % 4"), ("rack", "n % 500"))):
        await rows.insert(
            MachineLabel,
            count,
            id=rows.id("MachineLabel", f"n * 2 + {place}"),
            machine_id=rows.id("Machine"),
            key=f"'{key}'",
            value=f"'{key}-' || ({value})",
        )
    await rows.insert(
        MachineAddress,
        count,
        id=rows.id("MachineAddress"),
        machine_id=rows.id("Machine"),
        scope="'site:' || (n % 4)",
        address="'10.' || (n / 65536) || '.' || (n / 256 % 256) || '.' || (n % 256)",
        kind="'MANAGEMENT'",
        source="'AGENT'",
        held="TRUE",
    )
    # A workspace has a hundred machines, a user two more.
    await rows.insert(
        MachineGrant,
        count,
        id=rows.id("MachineGrant"),
        machine_id=rows.id("Machine"),
        workspace_id=rows.id("Workspace", f"n / 100 % {users // 10}"),
    )
    await rows.insert(
        MachineGrant,
        users * 2,
        id=rows.id("MachineGrant", f"n + {count}"),
        machine_id=rows.id("Machine", f"n % {count}"),
        user_id=rows.id("User", f"n % {users}"),
    )
    await rows.insert(
        Enrollment,
        count,
        id=rows.id("Enrollment"),
        token_hash=rows.name("enrollment-"),
        machine_name=rows.name("node-"),
        machine_id=rows.id("Machine"),
        expires_at=str(rows.now),
    )
