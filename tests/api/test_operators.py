"""What operators do with machines and people, over HTTP, as they would see it."""

from tests.api.host import enrolled
from tests.api.plane import Json, Server
from tests.core.patience import until

MACHINE = "machine { name lifecycle lifecycleReason draining labels { key value } }"


async def change(server: Server, token: str, name: str, /, **values: object) -> Json:
    kind = f"{name[0].upper()}{name[1:]}Input"
    made = await server.ask(
        f"mutation M($input: {kind}!) {{ {name}(input: $input) "
        f"{{ {MACHINE} userErrors {{ field message code }} }} }}",
        {"input": values},
        token=token,
    )
    payload: Json = made[name]
    return payload


async def test_a_machine_through_its_life(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with host.connected():
        await until(lambda: len(server.gateway.links) == 1)
        named = await change(server, admin, "renameMachine", machineId=host.id, name="node-a")
        assert named["machine"]["name"] == "node-a"
        labelled = await change(
            server,
            admin,
            "setMachineLabels",
            machineId=host.id,
            labels=[{"key": "rack", "value": "a1"}],
        )
        assert labelled["machine"]["labels"] == [{"key": "rack", "value": "a1"}]
        drained = await change(server, admin, "drainMachine", machineId=host.id)
        assert drained["machine"]["draining"] is True
        away = await change(server, admin, "startMaintenance", machineId=host.id, reason="new fans")
        assert away["machine"]["lifecycle"] == "MAINTENANCE"
        assert away["machine"]["lifecycleReason"] == "new fans"
        back = await change(server, admin, "endMaintenance", machineId=host.id)
        assert back["machine"]["lifecycle"] == "IN_SERVICE"
        again = await change(server, admin, "endMaintenance", machineId=host.id)
        assert again["machine"] is None
        assert again["userErrors"][0]["code"] == "CONFLICT"
        retired = await change(server, admin, "retireMachine", machineId=host.id)
        assert retired["machine"]["lifecycle"] == "RETIRED"
        # Its link is cut, and it does not get another.
        await until(lambda: not server.gateway.links)
