"""Two hosts with one address, over their links and on a running server."""

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from remotegpu_protocol.inventory import Address, AddressKind, Inventory
from tests.api.host import Host, Link, enrolled, inventory
from tests.api.plane import Server
from tests.core.patience import eventually

MACHINE = (
    "query($id: ID!) { machine(id: $id) { lifecycle lifecycleReason "
    "addresses { address contested holder { name } } } }"
)


def _said(revision: int, addresses: Sequence[str]) -> Inventory:
    said = inventory(revision=revision)
    having = [Address(address, AddressKind.MANAGEMENT, "eth0") for address in addresses]
    return replace(said, host=replace(said.host, addresses=having))


async def _report(link: Link, revision: int, *addresses: str) -> None:
    acknowledged = await link.send_inventory(_said(revision, addresses))
    assert acknowledged.revision == revision


async def test_a_quarantine_for_addresses_ends_when_the_other_host_gives_it_up(
    server: Server,
) -> None:
    admin = await server.sign_in()
    first = await enrolled(server, admin, "gpu-01")
    second = await enrolled(server, admin, "gpu-02")

    async def machine(host: Host) -> dict[str, Any]:
        found: dict[str, Any] = (await server.ask(MACHINE, {"id": host.id}, token=admin))["machine"]
        return found

    async with first.connected() as one, second.connected() as other:
        await _report(one, 1, "10.0.0.7")
        await _report(other, 1, "::ffff:10.0.0.7")
        shown = await machine(second)
        assert shown["lifecycle"] == "QUARANTINED"
        assert shown["addresses"] == [
            {"address": "10.0.0.7", "contested": True, "holder": {"name": "gpu-01"}}
        ]
        # Nobody asks for anything: a duty of the server notices.
        await _report(one, 2, "10.0.0.8")

        async def is_back() -> bool:
            return bool((await machine(second))["lifecycle"] == "IN_SERVICE")

        await eventually(is_back)
        assert await machine(second) == {
            "lifecycle": "IN_SERVICE",
            "lifecycleReason": None,
            "addresses": [{"address": "10.0.0.7", "contested": False, "holder": None}],
        }
