"""How allocations are signed in to, as the graph tells it to whom."""

from typing import Any

from remotegpu_core.actor import SYSTEM, Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.models import WorkspaceRole
from remotegpu_core.services.allocations.accounts import account_name
from remotegpu_core.services.allocations.allocate import allocate
from remotegpu_core.services.allocations.request import AllocateRequest
from remotegpu_core.services.ssh_keys import add_ssh_key
from remotegpu_core.services.workspaces import set_member
from remotegpu_graphql.ids import encode_id
from remotegpu_protocol.inventory import Policy
from tests.core.services.allocations.hosts import carry_out
from tests.graphql_schema.asking import data_of
from tests.graphql_schema.contract import document
from tests.graphql_schema.hosts import ipv4_of, make_host
from tests.graphql_schema.people import (
    HOUR,
    as_admin,
    as_user,
    make_key_line,
    make_user,
    make_workspace,
)

ALLOCATION = (
    "query Q($id: ID!) { allocation(id: $id) { ssh { command host port username hostKeys "
    "{ algorithm fingerprint } } sshUnavailableReason { code message } } }"
)
ACCOUNTS = Policy(
    commands=["allocation.start", "allocation.update", "allocation.end", "account.keys"]
)


async def test_its_user_and_admins_are_told_how(plane: ControlPlane) -> None:
    user, colleague = await make_user(), await make_user()
    lab = await make_workspace(user)
    await set_member(SYSTEM, lab.id, colleague.id, WorkspaceRole.ADMIN)
    owner = await as_user(user)
    host = await make_host(plane, "gpu-01", policy=ACCOUNTS)
    allocation, _ = await allocate(
        SYSTEM,
        plane.settings,
        AllocateRequest(
            machine_id=host.machine.id,
            user_id=user.id,
            workspace_id=lab.id,
            ends_at=now_ms() + HOUR,
        ),
    )
    await add_ssh_key(owner, "laptop", make_key_line())
    variables = {"id": encode_id("Allocation", allocation.id)}

    async def asked(actor: Actor) -> tuple[Any, Any]:
        shown = (await data_of(plane, actor, ALLOCATION, variables))["allocation"]
        return shown["ssh"], shown["sshUnavailableReason"]

    ssh, reason = await asked(owner)
    assert (ssh, reason["code"]) == (None, "NOT_ACTIVE")
    assert "PENDING" in reason["message"]
    await carry_out(allocation)
    name, address = account_name(allocation.id), ipv4_of("gpu-01")
    # The other address of this host is of a network for examples, and said to be public.
    for actor in (owner, await as_admin()):
        ssh, reason = await asked(actor)
        assert reason is None
        assert ssh["username"] == name
        assert ssh["command"] == f"ssh {name}@{ssh['host']}"
        assert (ssh["port"], ssh["hostKeys"]) == (22, [])
    ssh, reason = await asked(await as_user(colleague))
    assert (ssh, reason["code"]) == (None, "NOT_YOURS")
    assert name not in repr(reason)
    assert address not in repr(reason)

    mine = await data_of(plane, owner, document("MyAllocations"), {}, operation="MyAllocations")
    (edge,) = mine["viewer"]["allocations"]["edges"]
    assert edge["node"]["ssh"]["username"] == name
    assert set(edge["node"]["ssh"]) == {"command", "host", "port", "username"}
