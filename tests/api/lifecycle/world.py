"""A control plane, a host of its own that is a machine of it, and the people around both."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from remotegpu_core.models import Gpu, Machine
from remotegpu_core.services.allocations.accounts import account_name
from remotegpu_graphql.ids import decode_id, encode_id
from tests.api.host import enrollment_token
from tests.api.lifecycle.host import OwnHost, own_host
from tests.api.lifecycle.people import Person, admin_of
from tests.api.lifecycle.tenant import Keys, Tenant, compile_leave
from tests.api.plane import Server
from tests.core.patience import eventually


@dataclass
class World:
    server: Server
    admin: Person
    host: OwnHost
    machine: uuid.UUID
    folder: Path
    tenants: list[Tenant] = field(default_factory=list)

    @property
    def machine_id(self) -> str:
        """In the graph."""
        return encode_id("Machine", self.machine)

    async def ready(self) -> None:
        """The host is there and may be allocated."""

        async def is_ready() -> bool:
            machine = await Machine.get(id=self.machine)
            enabled = (machine.host.get("policy") or {}).get("commands", [])
            return "account.keys" in enabled and await Gpu.exists(machine_id=self.machine)

        await eventually(is_ready, patience=45)

    async def give(self, person: Person, keys: Keys) -> tuple[str, Tenant]:
        """Allocate the whole machine to somebody: its id, and what they are on the host."""
        payload = await self.admin.allocate(self.machine_id, userId=person.id)
        assert payload["userErrors"] == [], payload
        allocation_id: str = payload["allocation"]["id"]
        row_id = decode_id(allocation_id, "Allocation", field="id")
        tenant = Tenant(self.host, account_name(row_id), keys, f"canary-{person.name}")
        self.tenants.append(tenant)
        return allocation_id, tenant

    def keys(self, name: str) -> Keys:
        return Keys(self.folder / f"keys-{name}")

    def logs(self) -> str:
        return "\n".join(self.host.log(name) for name in ("agent.log", "sshd.log"))


@asynccontextmanager
async def world_of(server: Server, folder: Path) -> AsyncIterator[World]:
    """The host is enrolled, and no agent runs on it yet."""
    admin = await admin_of(server)
    async with own_host(folder / "host") as host:
        await compile_leave(host)
        await host.enroll(server.origin, await enrollment_token(server, admin.token, "gpu-01"))
        machine = await Machine.get(name="gpu-01")
        world = World(server, admin, host, machine.id, folder)
        try:
            yield world
        except BaseException:
            print(world.logs())  # noqa: T201 - shown with a test that fails
            raise
