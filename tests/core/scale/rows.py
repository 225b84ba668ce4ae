"""Rows of a large fleet, written by the database itself: a million in seconds."""
# ruff: noqa: S608 - all that goes into the SQL is of this file

import json
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.connection import get_connection
from tortoise.models import Model

from remotegpu_core.clock import now_ms
from remotegpu_core.models import (
    Allocation,
    AllocationEvent,
    ApiToken,
    AuditEvent,
    Booking,
    CleaningReceipt,
    Command,
    Dataset,
    DatasetGrant,
    Enrollment,
    Gpu,
    Machine,
    MachineAddress,
    MachineChange,
    MachineGrant,
    MachineLabel,
    Membership,
    Occupancy,
    Operation,
    OperationStep,
    Session,
    SshKey,
    User,
    Version,
    Workspace,
)

HOUR: Final = 3_600_000
GPUS: Final = 8
MODELS: Final = ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB", "NVIDIA L40S", "Tesla V100")

_POLICY = ["allocation.start", "allocation.update", "allocation.end", "account.ensure"]


@dataclass(frozen=True)
class Size:
    """How many rows; everything else follows from these."""

    machines: int
    allocations: int
    events: int
    users: int = 1000


#: What the performance targets speak of.
FULL: Final = Size(machines=10_000, allocations=100_000, events=1_000_000)
#: Enough for a planner to choose an index, and made in a second.
SMALL: Final = Size(machines=300, allocations=3_000, events=6_000, users=100)


class Fleet:
    """The rows of a `Size`. Of the machines, in their order, 30 % are allocated, as a whole or two
    GPUs of them, 3 % are being cleaned, and 3 % are booked for tomorrow; 1 % is quarantined."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.now = now_ms()
        self.active = size.machines * 30 // 100
        self.reclaiming = size.machines * 3 // 100
        self.reserved = size.machines * 3 // 100
        self.queued = 20
        #: Allocations that are not over come first.
        self.live = self.active + self.reclaiming + self.reserved + self.queued
        self._client: BaseDBAsyncClient = get_connection("default")
        self._sqlite = self._client.capabilities.dialect == "sqlite"

    async def write(self) -> None:
        await self._people()
        await self._machines()
        await self._allocations()
        await self._work()
        await self._logs()
        await self._client.execute_script("ANALYZE" if not self._sqlite else "SELECT 1")

    # --- people

    async def _people(self) -> None:
        users = self.size.users
        await self._insert(
            User,
            users,
            id=self._id("User"),
            username=self._name("user"),
            username_key=self._name("user"),
            password_hash="'none'",
            role="'USER'",
        )
        for model, extra in (
            (Session, {"expires_at": str(self.now + HOUR)}),
            (ApiToken, {"name": "'ci'", "scopes": self._json(["READ"])}),
            (
                SshKey,
                {
                    "name": "'laptop'",
                    "algorithm": "'ssh-ed25519'",
                    "fingerprint": self._name("SHA256:"),
                    "line": self._name("ssh-ed25519 "),
                    "comment": "''",
                },
            ),
        ):
            hashed = {} if model is SshKey else {"token_hash": self._name(f"{model.__name__}-")}
            owner = {"id": self._id(model.__name__), "user_id": self._id("User")}
            await self._insert(model, users, **owner, **hashed, **extra)
        await self._insert(
            Workspace,
            users // 10,
            id=self._id("Workspace"),
            name=self._name("lab"),
            name_key=self._name("lab"),
        )
        await self._insert(
            Membership,
            users,
            id=self._id("Membership"),
            user_id=self._id("User"),
            workspace_id=self._id("Workspace", f"n % {users // 10}"),
            role="'MEMBER'",
        )

    # --- machines

    async def _machines(self) -> None:
        count, users = self.size.machines, self.size.users
        host = {"hostname": "node", "policy": {"commands": _POLICY}, "note": "x" * 1500}
        await self._insert(
            Machine,
            count,
            id=self._id("Machine"),
            name=self._name("node-"),
            name_key=self._name("node-"),
            public_key="randomblob(32)"
            if self._sqlite
            else "decode(lpad(to_hex(n), 64, '0'), 'hex')",
            boot_id=self._name("boot-"),
            journal_id=self._name("journal-"),
            epoch="1",
            presence="CASE WHEN n % 50 = 0 THEN 'UNREACHABLE' WHEN n % 77 = 0 THEN 'LOST' "
            "ELSE 'ONLINE' END",
            lifecycle="CASE WHEN n % 100 = 99 THEN 'QUARANTINED' ELSE 'IN_SERVICE' END",
            health="'HEALTHY'",
            last_seen_at=str(self.now),
            inventory_at=str(self.now),
            host=self._json(host),
            created_at=f"{self.now} - n * 1000",
        )
        models = " ".join(f"WHEN {at} THEN '{name}'" for at, name in enumerate(MODELS))
        await self._insert(
            Gpu,
            count * GPUS,
            id=self._id("Gpu"),
            machine_id=self._id("Machine", f"n / {GPUS}"),
            index=f"n % {GPUS}",
            uuid=self._name("GPU-"),
            model=f"CASE (n / {GPUS}) % {len(MODELS)} {models} END",
            memory_total=f"CASE (n / {GPUS}) % 2 WHEN 0 THEN {80 * 2**30} ELSE {40 * 2**30} END",
            details=self._json({"serial": "x" * 100}),
        )
        for place, (key, value) in enumerate((("site", "n % 4"), ("rack", "n % 500"))):
            await self._insert(
                MachineLabel,
                count,
                id=self._id("MachineLabel", f"n * 2 + {place}"),
                machine_id=self._id("Machine"),
                key=f"'{key}'",
                value=f"'{key}-' || ({value})",
            )
        await self._insert(
            MachineAddress,
            count,
            id=self._id("MachineAddress"),
            machine_id=self._id("Machine"),
            scope="'site:' || (n % 4)",
            address="'10.' || (n / 65536) || '.' || (n / 256 % 256) || '.' || (n % 256)",
            kind="'MANAGEMENT'",
            source="'AGENT'",
            held="TRUE",
        )
        # A workspace has a hundred machines, a user two more.
        await self._insert(
            MachineGrant,
            count,
            id=self._id("MachineGrant"),
            machine_id=self._id("Machine"),
            workspace_id=self._id("Workspace", f"n / 100 % {users // 10}"),
        )
        await self._insert(
            MachineGrant,
            users * 2,
            id=self._id("MachineGrant", f"n + {count}"),
            machine_id=self._id("Machine", f"n % {count}"),
            user_id=self._id("User", f"n % {users}"),
        )
        await self._insert(
            Enrollment,
            count,
            id=self._id("Enrollment"),
            token_hash=self._name("enrollment-"),
            machine_name=self._name("node-"),
            machine_id=self._id("Machine"),
            expires_at=str(self.now),
        )

    # --- allocations

    async def _allocations(self) -> None:
        count, machines = self.size.allocations, self.size.machines
        over = self.live
        placed = self.active + self.reclaiming
        future = placed + self.reserved
        whole = f"(n < {over} AND n % 2 = 0)"
        # Those that are over follow each other on their machine.
        began = (
            f"CASE WHEN n < {placed} THEN {self.now - HOUR} WHEN n < {over} "
            f"THEN {self.now + 24 * HOUR} ELSE {self.now} - n * {HOUR} END"
        )
        await self._insert(
            Allocation,
            count,
            id=self._id("Allocation"),
            state=f"CASE WHEN n < {self.active} THEN 'ACTIVE' WHEN n < {placed} THEN 'RECLAIMING' "
            f"WHEN n < {over} THEN 'PENDING' ELSE 'RELEASED' END",
            user_id=self._id("User", f"n % {self.size.users}"),
            workspace_id=f"CASE WHEN n % 3 = 0 THEN {self._id('Workspace', self._lab)} END",
            machine_id=f"CASE WHEN n < {future} OR n >= {over} "
            f"THEN {self._id('Machine', f'n % {machines}')} END",
            whole_machine=whole,
            gpu_count=f"CASE WHEN {whole} THEN {GPUS} ELSE 2 END",
            requirement=self._json(_WISH),
            queued=f"n >= {future} AND n < {over}",
            starts_at=began,
            ends_at=f"{began} + {HOUR} * CASE WHEN n < {over} THEN 8 ELSE 1 END",
            generation=f"CASE WHEN n < {placed} OR n >= {over} THEN 1 ELSE 0 END",
            created_by_id=self._id("User", f"n % {self.size.users}"),
            created_at=f"{self.now} - n * 1000",
        )
        await self._insert(
            CleaningReceipt,
            count - over,
            id=self._id("CleaningReceipt", f"n + {over}"),
            allocation_id=self._id("Allocation", f"n + {over}"),
            verified="TRUE",
            finished_at=f"{self.now} - n * 1000",
        )
        # The machine and its GPUs, or two GPUs.
        claims = (
            f"(SELECT n AS a, g FROM ({self._series(count)}) AS s, "
            f"({self._series(GPUS + 1, 'g')}) AS t "
            f"WHERE (n < {future} OR n >= {over}) AND "
            f"CASE WHEN n < {over} AND n % 2 = 0 THEN TRUE ELSE g BETWEEN 1 AND 2 END)"
        )
        machine = self._id("Machine", f"a % {machines}")
        gpu = self._id("Gpu", f"(a % {machines}) * {GPUS} + g - 1")
        claimed = {
            "allocation_id": self._id("Allocation", "a"),
            "resource_id": f"CASE WHEN g = 0 THEN {machine} ELSE {gpu} END",
            "machine_id": machine,
            "gpu_id": f"CASE WHEN g = 0 THEN NULL ELSE {gpu} END",
        }
        began = began.replace("n ", "a ").replace("- n", "- a")
        await self._insert(
            Booking,
            claims,
            id=self._id("Booking", f"a * {GPUS + 1} + g"),
            **claimed,
            starts_at=began,
            ends_at=f"{began} + {HOUR} * CASE WHEN a < {over} THEN 8 ELSE 1 END",
            held="TRUE",
        )
        await self._insert(
            Occupancy,
            f"{claims[:-1]} AND (n < {placed} OR n >= {over}))",
            id=self._id("Occupancy", f"a * {GPUS + 1} + g"),
            **claimed,
            opened_at=began,
            closed_at=f"CASE WHEN a >= {over} THEN {self.now} END",
            receipt_id=f"CASE WHEN a >= {over} THEN {self._id('CleaningReceipt', 'a')} END",
        )
        await self._client.execute_script(
            "UPDATE booking SET held = FALSE WHERE EXISTS (SELECT 1 FROM allocation "
            "WHERE allocation.id = allocation_id AND state = 'RELEASED')"
        )

    @property
    def _lab(self) -> str:
        return f"n % {self.size.users // 10}"

    async def _work(self) -> None:
        """Operations and commands of a fifth of the allocations: older ones were pruned."""
        count = self.size.allocations // 5
        machine = self._id("Machine", f"n % {self.size.machines}")
        await self._insert(
            Operation,
            count,
            id=self._id("Operation"),
            kind="'allocate'",
            state="'SUCCEEDED'",
            progress="1.0",
            machine_id=machine,
            allocation_id=self._id("Allocation"),
            user_id=self._id("User", f"n % {self.size.users}"),
            change="n + 1",
            finished_at=str(self.now),
        )
        await self._insert(
            OperationStep,
            count * 3,
            id=self._id("OperationStep"),
            operation_id=self._id("Operation", "n / 3"),
            position="n % 3",
            name="'step-' || (n % 3)",
            state="'SUCCEEDED'",
        )
        await self._insert(
            Command,
            count,
            id=self._id("Command"),
            machine_id=machine,
            sequence="n + 1",
            kind="'allocation.start'",
            arguments=self._json({}),
            deadline=str(self.now + HOUR),
            allocation_id=self._id("Allocation"),
            operation_id=self._id("Operation"),
            state=f"CASE WHEN n < {self.size.machines // 100} THEN 'QUEUED' ELSE 'SUCCEEDED' END",
            finished_at=f"CASE WHEN n < {self.size.machines // 100} THEN NULL ELSE {self.now} END",
        )
        users = self.size.users
        await self._insert(
            Dataset,
            users * 2,
            id=self._id("Dataset"),
            owner_id=self._id("User", f"n % {users}"),
            name=self._name("data"),
            name_key=self._name("data"),
            kind="'S3'",
            location=self._name("bucket-"),
            visibility="CASE WHEN n % 10 = 0 THEN 'PUBLIC' ELSE 'PRIVATE' END",
        )
        await self._insert(
            DatasetGrant,
            users * 2,
            id=self._id("DatasetGrant"),
            dataset_id=self._id("Dataset"),
            user_id=self._id("User", f"(n + 7) % {users}"),
            access="'READ_ONLY'",
        )

    async def _logs(self) -> None:
        size, users = self.size, self.size.users
        await self._insert(
            AuditEvent,
            size.events,
            id=self._id("AuditEvent"),
            at=f"{self.now} - ({size.events} - n) * 1000",
            actor_kind="CASE WHEN n % 10 = 9 THEN 'MACHINE' WHEN n % 10 = 8 THEN 'API_TOKEN' "
            "ELSE 'USER' END",
            actor_id=f"CASE WHEN n % 10 = 9 THEN {self._id('Machine', f'n % {size.machines}')} "
            f"WHEN n % 10 = 8 THEN {self._id('ApiToken', f'n % {users}')} "
            f"ELSE {self._id('User', f'n % {users}')} END",
            user_id=f"CASE WHEN n % 10 = 9 THEN NULL ELSE {self._id('User', f'n % {users}')} END",
            action="'action' || (n % 40)",
            target_type="'Machine'",
            target_id=self._id("Machine", f"n % {size.machines}"),
            outcome="CASE WHEN n % 100 = 0 THEN 'DENIED' ELSE 'SUCCEEDED' END",
            details=self._json({"machine": "node-00001"}),
        )
        logged = min(10_000, size.machines)
        await self._insert(
            MachineChange,
            logged,
            sequence="n + 1",
            machine_id=self._id("Machine", f"n % {size.machines}"),
            kind="'PRESENCE_CHANGED'",
            at=str(self.now),
        )
        await self._insert(
            AllocationEvent,
            logged,
            sequence="n + 1",
            allocation_id=self._id("Allocation", f"n % {size.allocations}"),
            kind="'CREATED'",
            at=str(self.now),
        )
        work = size.allocations // 5
        for topic, value in {
            "machine_changes": logged,
            "allocations": logged,
            "operations": work,
            "commands": work,
        }.items():
            await Version.filter(name=topic).update(value=value)

    # --- SQL of both databases, over the numbers n from 0

    async def _insert(self, model: type[Model], rows: int | str, /, **values: str) -> None:
        """`rows`: how many, or a table of a query's; columns by name, as expressions of `n`."""
        columns = dict(values)
        for name, field in model._meta.fields_map.items():
            if name in columns or name not in model._meta.fields_db_projection:
                continue
            if field.default is not None:
                value = field.default() if callable(field.default) else field.default
                columns[name] = self._literal(value)
            elif not field.null:
                assert name == "created_at", (model.__name__, name)
                columns[name] = str(self.now)
        names = ", ".join(f'"{name}"' for name in columns)
        source = f"({self._series(rows)}) AS s" if isinstance(rows, int) else f"{rows} AS s"
        await self._client.execute_script(
            f'INSERT INTO "{model._meta.db_table}" ({names}) '
            f"SELECT {', '.join(columns.values())} FROM {source}"
        )

    def _series(self, count: int, name: str = "n") -> str:
        if not self._sqlite:
            return f"SELECT {name} FROM generate_series(0, {count - 1}) AS {name}"
        return (
            f"WITH RECURSIVE c({name}) AS (SELECT 0 UNION ALL SELECT {name} + 1 FROM c "
            f"LIMIT {count}) SELECT {name} FROM c"
        )

    def _id(self, model: str, number: str = "n") -> str:
        return _uuid(self._sqlite, model, number)

    def _name(self, prefix: str) -> str:
        padded = "printf('%07d', n)" if self._sqlite else "lpad(n::text, 7, '0')"
        return f"'{prefix}' || {padded}"

    def _json(self, value: object) -> str:
        text = f"'{json.dumps(value)}'"
        return text if self._sqlite else f"{text}::jsonb"

    def _literal(self, value: Any) -> str:
        if isinstance(value, bool):
            return str(value).upper()
        if isinstance(value, int | float):
            return str(value)
        if isinstance(value, Enum):
            return f"'{value.value}'"
        if isinstance(value, str):
            return f"'{value}'"
        assert isinstance(value, list | dict), value
        return self._json(value)


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


def row_id(model: type[Model], number: int) -> uuid.UUID:
    """Of the row `number` of a fleet."""
    return uuid.UUID(f"0198c1f0-0000-7{_kind(model.__name__):03x}-8000-{number:012x}")


def _kind(model: str) -> int:
    return zlib.crc32(model.encode()) % 4096


def _uuid(sqlite: bool, model: str, number: str) -> str:
    if sqlite:
        return f"printf('0198c1f0-0000-7{_kind(model):03x}-8000-%012x', {number})"
    return f"('0198c1f0-0000-7{_kind(model):03x}-8000-' || lpad(to_hex({number}), 12, '0'))::uuid"
