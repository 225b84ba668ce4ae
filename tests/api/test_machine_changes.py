"""`machineChanged` and `fleetChanged`: state first, then every change, over reconnects too."""

import uuid

import pytest

from remotegpu_core.database.transactions import transaction
from remotegpu_core.models import MachineChange
from remotegpu_core.services.changes import ChangeKind, record_change
from tests.api.conftest import make_hosts
from tests.api.documents import LIVE, USERS_AND_TOKENS
from tests.api.host import Host, enrolled, inventory, sample
from tests.api.plane import Json, Server
from tests.api.viewer import Ended, Operation, Viewer, viewing

CHANGES = "MachineChanges"
FLEET = "FleetPulse"


async def _changes(viewer: Viewer, after: str | None = None) -> Operation:
    return await viewer.subscribe(LIVE, {"after": after}, operation=CHANGES)


async def _change(operation: Operation, kind: str) -> Json:
    """The next change of that kind; others are passed over."""
    while True:
        event: Json = (await operation.data())["machineChanged"]
        if event["kind"] == kind:
            return event


async def _happen(host: Host, number: int) -> None:
    async with transaction():
        for _ in range(number):
            await record_change(uuid.UUID(host.machine_id), ChangeKind.HEALTH_CHANGED)


async def test_it_begins_with_ready_and_a_cursor(any_server: Server) -> None:
    server = any_server
    admin = await server.sign_in()
    async with viewing(server, admin) as viewer:
        operation = await _changes(viewer)
        ready = (await operation.data(within=2))["machineChanged"]
        assert (ready["kind"], ready["machineId"], ready["machine"]) == ("READY", None, None)
        assert ready["cursor"]
        host = await enrolled(server, admin, "gpu-01")
        added = await _change(operation, "ENROLLED")
        assert added["machineId"] == host.id
        assert added["machine"] == {
            "id": host.id,
            "name": "gpu-01",
            "presence": "UNREACHABLE",
            "lifecycle": "IN_SERVICE",
            "health": "HEALTHY",
        }
        async with host.connected() as link:
            online = await _change(operation, "PRESENCE_CHANGED")
            assert online["machine"]["presence"] == "ONLINE"
            await link.send_inventory(inventory("GPU-0"))
            await _change(operation, "INVENTORY_CHANGED")
        cursors = [int(ready["cursor"]), int(added["cursor"]), int(online["cursor"])]
        assert cursors == sorted(cursors)


async def test_nothing_is_missed_across_a_reconnect(any_server: Server) -> None:
    server = any_server
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with viewing(server, admin) as viewer:
        operation = await _changes(viewer)
        cursor = (await operation.data())["machineChanged"]["cursor"]
        await _happen(host, 3)
        seen = [(await operation.data())["machineChanged"]["cursor"] for _ in range(3)]
    # Nobody watches while this happens.
    await _happen(host, 600)
    async with viewing(server, admin) as viewer:
        operation = await _changes(viewer, seen[-1])
        seen += [(await operation.data())["machineChanged"]["cursor"] for _ in range(600)]
        await _happen(host, 2)
        await server.plane.bus.nudge("changed")
        seen += [(await operation.data())["machineChanged"]["cursor"] for _ in range(2)]
        first = int(cursor)
        assert [int(c) for c in seen] == list(range(first + 1, first + 606))
        await operation.silent(0.3)


async def test_ready_and_then_a_query_miss_nothing(server: Server) -> None:
    admin = await server.sign_in()
    async with viewing(server, admin) as viewer:
        operation = await _changes(viewer)
        await operation.data()
        host = await enrolled(server, admin, "gpu-01")
        found = await server.ask("{ machines { edges { node { id } } } }", token=admin)
        assert [edge["node"]["id"] for edge in found["machines"]["edges"]] == [host.id]
        assert (await _change(operation, "ENROLLED"))["machineId"] == host.id


async def test_a_cursor_that_is_too_old_has_expired(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with viewing(server, admin) as viewer:
        operation = await _changes(viewer)
        cursor = (await operation.data())["machineChanged"]["cursor"]
        await _happen(host, 5)
        await MachineChange.filter(sequence__lte=int(cursor) + 2).delete()
        late = await _changes(viewer, cursor)
        ended = await late.end()
        assert ended.errors[0]["extensions"]["code"] == "CURSOR_EXPIRED"
        assert ended.errors[0]["extensions"]["field"] == ["after"]
        # The last that was forgotten is old enough to go on from.
        exact = await _changes(viewer, str(int(cursor) + 2))
        assert int((await exact.data())["machineChanged"]["cursor"]) == int(cursor) + 3


async def test_a_cursor_that_is_none_is_explained(server: Server) -> None:
    admin = await server.sign_in()
    async with viewing(server, admin) as viewer:
        for after in ("", "x", "-1", "1.5", "٣", "9" * 19, "99999999", " 1"):
            operation = await _changes(viewer, after)
            with pytest.raises(Ended) as caught:
                await operation.next()
            assert caught.value.errors[0]["extensions"]["code"] == "INVALID_INPUT", after


async def test_each_sees_the_changes_of_their_own_machines(server: Server) -> None:
    admin = await server.sign_in()
    one, two = await make_hosts(server, admin, "gpu-01", "gpu-02")
    ada_id, ada = await server.make_user(admin, "ada")
    async with viewing(server, ada) as viewer:
        operation = await _changes(viewer)
        await operation.data()
        await server.ask(
            USERS_AND_TOKENS,
            {"machineId": two.id, "userId": ada_id},
            token=admin,
            operation="GrantMachine",
        )
        granted = (await operation.data(within=2))["machineChanged"]
        assert (granted["kind"], granted["machineId"]) == ("ACCESS_CHANGED", two.id)
        assert granted["machine"]["name"] == "gpu-02"
        async with one.connected(), two.connected():
            change = (await operation.data())["machineChanged"]
            assert (change["kind"], change["machineId"]) == ("PRESENCE_CHANGED", two.id)
        await operation.silent(0.3)


async def test_the_fleet_in_numbers(any_server: Server) -> None:
    server = any_server
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with viewing(server, admin) as viewer:
        operation = await viewer.subscribe(LIVE, operation=FLEET)
        first = (await operation.data(within=2))["fleetChanged"]
        assert first == {
            "machines": {"online": 0, "allocated": 0},
            "gpus": {"available": 0, "allocated": 0, "utilization": None, "power": None},
        }
        async with host.connected() as link:
            await link.send_inventory(inventory("GPU-0", "GPU-1"))
            await link.send(sample(utilization=30))
            while (event := (await operation.data())["fleetChanged"])["gpus"]["power"] is None:
                assert event != first
            assert event == {
                "machines": {"online": 1, "allocated": 0},
                "gpus": {"available": 2, "allocated": 0, "utilization": 30.0, "power": 625.0},
            }
            # What stays as it is, is not told again.
            await operation.silent(1.5)


async def test_the_fleet_of_a_user_grows_with_their_grants(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    ada_id, ada = await server.make_user(admin, "ada")
    grant = {"machineId": host.id, "userId": ada_id}
    async with host.connected(), viewing(server, ada) as viewer:
        operation = await viewer.subscribe(LIVE, operation=FLEET)
        assert (await operation.data())["fleetChanged"]["machines"]["online"] == 0
        await server.ask(USERS_AND_TOKENS, grant, token=admin, operation="GrantMachine")
        assert (await operation.data(within=3))["fleetChanged"]["machines"]["online"] == 1
        await server.ask(USERS_AND_TOKENS, grant, token=admin, operation="RevokeMachineGrant")
        assert (await operation.data(within=3))["fleetChanged"]["machines"]["online"] == 0
