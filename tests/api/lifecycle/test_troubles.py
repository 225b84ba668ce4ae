"""Steps that fail, one after the other: the machine stays out of use until it is proven clean, or an
admin answers for it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.api.lifecycle.checker import watching
from tests.api.lifecycle.people import Person, user_of
from tests.api.lifecycle.tenant import Tenant
from tests.api.lifecycle.troubles import NO_USERADD, TROUBLES
from tests.api.lifecycle.world import World, world_of
from tests.api.plane import Json, Server

pytestmark = [pytest.mark.timeout(600)]

#: One of each kind: a disk, a program that fails, a driver, and a program that lies, at the end.
SOME = ("temporary files", "sign-in", "GPU processes and memory", "account")


def codes(payload: Json) -> list[str]:
    return [error["code"] for error in payload["userErrors"]]


async def held_back(world: World, bob: Person, operation: Json, surface: str) -> None:
    """Nobody gets a machine that is not clean, and everybody who may know is told why."""
    assert operation["state"] == "FAILED", (surface, operation)
    assert operation["error"]["code"] == "NOT_VERIFIED"
    assert surface in operation["error"]["message"], (surface, operation)
    machine = await world.admin.machine(world.machine_id)
    assert (machine["lifecycle"], machine["availability"]) == ("QUARANTINED", "RECLAIMING")
    assert surface in machine["lifecycleReason"], machine
    refused = await world.admin.allocate(world.machine_id, userId=bob.id)
    assert codes(refused) == ["NO_CAPACITY"], refused


async def each_in_turn(world: World, bob: Person, ada: Person, surfaces: Sequence[str]) -> None:
    """Cleaned again and again, with another trouble each time, and without any at last."""
    keys = world.keys("ada")
    await ada.add_key("laptop", await keys.make("first"))
    allocation, tenant = await world.give(ada, keys)
    await ada.reached(allocation, "ACTIVE")
    await tenant.plant("first")
    uid = tenant.uid
    first, *others = surfaces
    await TROUBLES[first].begin(world.host, tenant.account, uid)
    operation = await ada.ended(await ada.release(allocation))
    for surface, then in zip(surfaces, [*others, None], strict=True):
        await held_back(world, bob, operation, surface)
        assert (await ada.allocation(allocation))["cleaningReceipt"] is None
        # Its user id is nobody else's until all is proven.
        assert tenant.exists()
        assert surface == "sign-in" or not await tenant.enters("first")
        await TROUBLES[surface].end(world.host)
        if then is not None:
            await TROUBLES[then].begin(world.host, tenant.account, uid)
        operation = await world.admin.ended(
            (await world.admin.retry(world.machine_id))["operation"]["id"]
        )
    assert operation["state"] == "SUCCEEDED", operation
    assert (await ada.reached(allocation, "RELEASED"))["cleaningReceipt"]["verified"]
    assert await tenant.residue(uid) == []
    assert (await world.admin.machine(world.machine_id))["availability"] == "AVAILABLE"


async def never_begun(world: World, ada: Person) -> None:
    """A start that comes to nothing before anybody could sign in takes no machine out of use."""
    await NO_USERADD.begin(world.host, "", 0)
    allocation, tenant = await world.give(ada, world.keys("ada-never"))
    failed = await ada.reached(allocation, "FAILED")
    assert failed["error"]["code"] == "USERADD"
    receipt = failed["cleaningReceipt"]
    assert receipt["verified"]
    assert "nobody signed in" in receipt["items"][0]["detail"]
    assert not tenant.exists()
    assert (await world.admin.machine(world.machine_id))["lifecycle"] == "IN_SERVICE"
    await NO_USERADD.end(world.host)


async def removed_by_hand(world: World, ada: Person) -> None:
    """What an account left is found by its user id when the account is there no more."""
    keys = world.keys("ada-removed")
    key = await ada.add_key("removed", await keys.make("first"))
    allocation, tenant = await world.give(ada, keys)
    await ada.reached(allocation, "ACTIVE")
    await tenant.plant("first")
    uid = tenant.uid
    await world.host.root("userdel", "--force", tenant.account)
    assert not tenant.exists()
    assert len(await tenant.residue(uid)) > 50
    operation = await ada.ended(await ada.release(allocation))
    assert operation["state"] == "SUCCEEDED", operation
    assert await tenant.residue(uid) == []
    await ada.remove_key(key)


async def answered_for(world: World, ada: Person, bob: Person) -> None:
    """Where no proof comes, an admin's word does: with a reason, and written down."""
    keys = world.keys("ada-again")
    await ada.add_key("again", await keys.make("again"))
    allocation, tenant = await world.give(ada, keys)
    await ada.reached(allocation, "ACTIVE")
    await TROUBLES["account"].begin(world.host, tenant.account, tenant.uid)
    operation = await ada.ended(await ada.release(allocation))
    await held_back(world, bob, operation, "account")
    for user in (ada, bob):
        assert codes(await user.override(world.machine_id, "mine")) == ["FORBIDDEN"]
        assert codes(await user.retry(world.machine_id)) == ["FORBIDDEN"]
    assert codes(await world.admin.override(world.machine_id, " \n")) == ["INVALID_INPUT"]
    await held_back(world, bob, operation, "account")
    assert codes(await world.admin.override(world.machine_id, "wiped by hand")) == []
    receipt = (await ada.reached(allocation, "RELEASED"))["cleaningReceipt"]
    assert (receipt["verified"], receipt["reason"]) == (False, "wiped by hand")
    (admins,) = [
        (await world.admin.allocation(allocation))["cleaningReceipt"]["overriddenBy"]["username"]
    ]
    assert admins == "admin"
    assert await world.admin.machine(world.machine_id) == {
        "lifecycle": "IN_SERVICE",
        "lifecycleReason": None,
        "availability": "AVAILABLE",
    }
    (event,) = [
        event
        for event in await world.admin.audited("overrideQuarantine")
        if event["outcome"] == "SUCCEEDED"
    ]
    assert event["actor"]["username"] == "admin"
    assert {"key": "reason", "value": "wiped by hand"} in event["details"]
    # Whoever had it is shut out all the same, and the next one gets in.
    assert not await tenant.enters("again")
    await TROUBLES["account"].end(world.host)
    bobs = world.keys("bob")
    await bob.add_key("laptop", await bobs.make("first"))
    allocation, second = await world.give(bob, bobs)
    await bob.reached(allocation, "ACTIVE")
    assert await second.enters("first")
    assert not await Tenant(world.host, second.account, keys, "").enters("again")


async def troubled(server: Server, folder: Path, surfaces: Sequence[str]) -> None:
    async with world_of(server, folder) as world:
        ada, bob = await user_of(world.admin, "ada"), await user_of(world.admin, "bob")
        await world.host.agent()
        await world.ready()
        async with watching(world.machine) as watch:
            await never_begun(world, ada)
            await removed_by_hand(world, ada)
            await each_in_turn(world, bob, ada, surfaces)
            await answered_for(world, ada, bob)
            assert watch.free
        retried = await world.admin.audited("retryReclaim")
        assert [event["outcome"] for event in retried].count("SUCCEEDED") == len(surfaces)
        assert [event["outcome"] for event in retried].count("DENIED") == 2


async def test_some_steps_fail(server: Server, tmp_path: Path) -> None:
    await troubled(server, tmp_path, SOME)


@pytest.mark.soak
async def test_every_step_fails(server: Server, tmp_path: Path) -> None:
    await troubled(server, tmp_path, list(TROUBLES))
