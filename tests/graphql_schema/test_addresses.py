"""Addresses of machines in the graph."""

from typing import Any

from remotegpu_core.actor import Actor
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.models import MachineChange
from remotegpu_protocol.inventory import Address, AddressKind, HostInventory, Inventory
from tests.graphql_schema.asking import data_of
from tests.graphql_schema.hosts import Host, make_host
from tests.graphql_schema.people import as_admin, as_user, make_user

MACHINE = (
    "query Q($id: ID!) { machine(id: $id) { lifecycle lifecycleReason addresses { address kind "
    "interface source scope site contested acceptedAt holder { name } } } }"
)
SET = (
    "mutation M($input: SetMachineAddressesInput!) { setMachineAddresses(input: $input) "
    "{ machine { addresses { address kind source } } userErrors { field message code } } }"
)
ACCEPT = (
    "mutation M($input: AcceptMachineAddressesInput!) { acceptMachineAddresses(input: $input) "
    "{ machine { lifecycle addresses { contested acceptedAt } } "
    "userErrors { field message code } } }"
)


async def _report(host: Host, *addresses: Address) -> None:
    said = HostInventory(hostname="x", addresses=list(addresses))
    await host.report(Inventory(revision=1, host=said, gpus=[]))


async def _shown(plane: ControlPlane, actor: Actor, host: Host) -> dict[str, Any]:
    machine: dict[str, Any] = (await data_of(plane, actor, MACHINE, {"id": host.id}))["machine"]
    return machine


async def test_a_conflict_names_the_other_machine_to_admins_alone(plane: ControlPlane) -> None:
    admin, user = await as_admin(), await make_user()
    first = await make_host(plane, "secret-node")
    second = await make_host(plane, "second", labels=[("site", "north")])
    third = await make_host(plane, "third")
    await third.grant(user_id=user.id)
    await _report(first, Address("10.0.0.7", AddressKind.MANAGEMENT, "eno1"))
    await _report(
        second,
        Address("10.0.0.7", AddressKind.MANAGEMENT, "eno1"),
        Address("2600::7", AddressKind.PUBLIC),
    )
    assert await _shown(plane, admin, second) == {
        "lifecycle": "IN_SERVICE",
        "lifecycleReason": None,
        "addresses": [
            {
                "address": "10.0.0.7",
                "kind": "MANAGEMENT",
                "interface": "eno1",
                "source": "AGENT",
                "scope": "SITE",
                "site": "north",
                "contested": False,
                "acceptedAt": None,
                "holder": None,
            },
            {
                "address": "2600::7",
                "kind": "PUBLIC",
                "interface": None,
                "source": "AGENT",
                "scope": "GLOBAL",
                "site": None,
                "contested": False,
                "acceptedAt": None,
                "holder": None,
            },
        ],
    }
    await _report(third, Address("10.0.0.7", AddressKind.MANAGEMENT, "eno1"))
    for actor, holder in ((admin, {"name": "secret-node"}), (await as_user(user), None)):
        machine = await _shown(plane, actor, third)
        (address,) = machine["addresses"]
        assert machine["lifecycle"] == "QUARANTINED"
        assert "10.0.0.7" in machine["lifecycleReason"]
        assert (address["contested"], address["site"]) == (True, None)
        assert address["holder"] == holder
        assert ("secret-node" in repr(machine)) is (holder is not None)
    changes = MachineChange.filter(machine_id=third.machine.id, kind="LIFECYCLE_CHANGED")
    assert await changes.count() == 1

    variables = {"machineId": third.id, "addresses": ["10.0.0.7"], "reason": "a floating address"}
    accepted = (await data_of(plane, admin, ACCEPT, {"input": variables}))["acceptMachineAddresses"]
    assert accepted["userErrors"] == []
    assert accepted["machine"]["lifecycle"] == "IN_SERVICE"
    assert accepted["machine"]["addresses"][0]["contested"] is True
    assert accepted["machine"]["addresses"][0]["acceptedAt"] is not None


async def test_admins_give_addresses(plane: ControlPlane) -> None:
    admin, host, other = await as_admin(), await make_host(plane), await make_host(plane, "other")
    await _report(host)
    await _report(other, Address("10.0.0.7", AddressKind.MANAGEMENT))

    async def give(*addresses: str) -> dict[str, Any]:
        given = [{"address": address, "kind": "PUBLIC"} for address in addresses]
        data = await data_of(
            plane, admin, SET, {"input": {"machineId": host.id, "addresses": given}}
        )
        payload: dict[str, Any] = data["setMachineAddresses"]
        return payload

    done = await give("2600:0:0::0007")
    assert done == {
        "machine": {"addresses": [{"address": "2600::7", "kind": "PUBLIC", "source": "ADMIN"}]},
        "userErrors": [],
    }
    for address, code in (("10.0.0.7", "CONFLICT"), ("010.0.0.7", "INVALID_INPUT")):
        refused = await give("2600::7", address)
        assert refused["machine"] is None
        (error,) = refused["userErrors"]
        assert (error["code"], error["field"]) == (code, ["addresses", "1", "address"])
        assert ("'other'" in error["message"]) is (code == "CONFLICT")
