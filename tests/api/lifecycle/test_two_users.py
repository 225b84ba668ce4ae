"""The whole life of a machine between two users: real accounts, keys, sshd and files."""

import pwd
from pathlib import Path

import pytest

from tests.api.lifecycle.checker import watching
from tests.api.lifecycle.host import POLICY
from tests.api.lifecycle.people import Person, user_of
from tests.api.lifecycle.tenant import Keys, Tenant
from tests.api.lifecycle.world import World, world_of
from tests.api.plane import Backend, Json, serving
from tests.core.patience import eventually

pytestmark = [pytest.mark.timeout(240)]

#: What is found of a user like these; all other surfaces are looked at, and clean or absent.
FOUND = {
    "sign-in",
    "SSH keys",
    "lingering",
    "cron",
    "at jobs",
    "processes",
    "runtime directory",
    "System V IPC",
    "POSIX message queues",
    "shared memory",
    "temporary files",
    "mail",
    "core dumps",
    "home directory",
    "account",
}


async def keys_follow(
    world: World, ada: Person, keys: Keys, allocation: str, tenant: Tenant
) -> None:
    """What is changed in the graph is on the host at once, while a shell is open."""
    async with tenant.shell("first") as shell:
        assert await shell.answers()
        second = await ada.add_key("desk", await keys.make("second"))
        await eventually(lambda: tenant.enters("second"))
        # One of their own, by hand; it is gone with the reset.
        own = await keys.make("own")
        await tenant.does("first", f"echo '{own.strip()}' | tee -a .ssh/authorized_keys2 > .ssh/x")
        assert await tenant.enters("own")
        operation = await ada.reset_keys(allocation)
        assert operation["state"] == "SUCCEEDED", operation
        assert not await tenant.enters("own")
        assert await tenant.enters("first")
        assert await shell.answers()
        await ada.remove_key(second)

        async def is_shut_out() -> bool:
            return not await tenant.enters("second")

        await eventually(is_shut_out)
        assert await shell.answers()


async def full_home(ada: Person, keys: Keys, allocation: str, tenant: Tenant) -> None:
    """A key that the host could not write is seen in the graph, by whoever added it."""
    await tenant.does("first", "dd if=/dev/zero of=full bs=1M 2> /dev/null || true")
    third = await ada.add_key("third", await keys.make("third"))

    async def error() -> Json | None:
        found: Json | None = (await ada.allocation(allocation))["sshKeysError"]
        return found

    await eventually(error)
    told = await error()
    assert told is not None
    assert told["code"] == "KEYS_NOT_WRITTEN"
    assert "No space left" in told["message"]
    assert await tenant.enters("first")
    assert not await tenant.enters("third")
    await tenant.does("first", "rm full")
    assert (await ada.reset_keys(allocation))["state"] == "SUCCEEDED"
    assert await error() is None
    assert await tenant.enters("third")
    await ada.remove_key(third)


def check_receipt(allocation: Json, found: set[str]) -> None:
    receipt = allocation["cleaningReceipt"]
    assert (receipt["verified"], receipt["simulated"]) == (True, False)
    assert (receipt["overriddenBy"], receipt["reason"]) == (None, None)
    items = {item["surface"]: item for item in receipt["items"]}
    assert len(items) == len(receipt["items"]) > len(FOUND)
    for surface, item in items.items():
        assert item["verified"], item
        assert item["removed"] == item["found"], item
        if not surface.startswith("GPU"):
            assert bool(item["found"]) == (surface in found), item


async def test_one_after_the_other(scaled_out: Backend, tmp_path: Path) -> None:
    async with (
        serving(scaled_out, tmp_path / "data") as server,
        world_of(server, tmp_path) as world,
    ):
        ada, bob = await user_of(world.admin, "ada"), await user_of(world.admin, "bob")
        ada_keys, bob_keys = world.keys("ada"), world.keys("bob")
        await ada.add_key("laptop", await ada_keys.make("first"))
        bob_line = await bob_keys.make("first")
        await bob.add_key("laptop", bob_line)
        # The worst case: the second one has the first one's user id.
        await world.host.allow(f"{POLICY}\naccount_uids = [30000, 30000]\n")
        await world.host.agent()
        await world.ready()
        async with watching(world.machine) as watch:
            allocation, first = await world.give(ada, ada_keys)
            await ada.reached(allocation, "ACTIVE")
            assert await first.enters("first")
            await keys_follow(world, ada, ada_keys, allocation, first)
            await full_home(ada, ada_keys, allocation, first)
            await first.plant("first")
            world.host.driver.set({"card0.compute_mode": 3, "card1.power.set": 200_000})
            uid = first.uid
            # All of it is found where it is, also by whoever looks around.
            assert len(await first.residue(uid)) > 60
            around = " ".join(await first.looks_around("first"))
            for place in ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock", "./.config"):  # noqa: S108 - as above
                assert f"{place}/" in around, place
            assert f"echo {first.canary}" in around
            async with first.shell("first") as shell, first.master("first") as master:
                assert await shell.answers()
                assert await master.enters()
                operation = await ada.release(allocation)
                assert (await ada.ended(operation))["state"] == "SUCCEEDED"
                # Neither by a key, nor over what was open before.
                assert not first.exists()
                assert not await first.enters("first")
                assert not await master.enters()
                await shell.ended()
            check_receipt(await ada.reached(allocation, "RELEASED"), FOUND)
            assert await first.residue(uid) == []
            settings = world.host.driver.settings()
            assert (settings["card0.compute_mode"], settings["card1.power.set"]) == (0, 700_000)
            assert (await world.admin.machine(world.machine_id)) == {
                "lifecycle": "IN_SERVICE",
                "lifecycleReason": None,
                "availability": "AVAILABLE",
            }
            assert watch.free

            allocation, second = await world.give(bob, bob_keys)
            await bob.reached(allocation, "ACTIVE")
            assert await second.looks_around("first") == untouched(
                world, " ".join(bob_line.split()[:2])
            )
            # The first one's keys open nothing of the second's, nor anything any more.
            for key in ("first", "second", "own", "third"):
                assert not await first.enters(key)
                assert not await Tenant(world.host, second.account, ada_keys, "").enters(key)
            await second.does("first", "exit 0")
            assert second.uid == uid
            await bob.ended(await bob.release(allocation))
            check_receipt(
                await bob.reached(allocation, "RELEASED"),
                {"sign-in", "SSH keys", "home directory", "account"},
            )
            assert await second.residue(uid) == []
        # All of it was on the host, and nothing on this machine.
        for tenant in world.tenants:
            with pytest.raises(KeyError):
                pwd.getpwnam(tenant.account)
        assert not leaked(world)


def leaked(world: World) -> list[Path]:
    return [
        path
        for folder in ("/tmp", "/var/tmp", "/dev/shm", "/home", "/run/user", "/var/mail")  # noqa: S108 - as above
        for tenant in world.tenants
        for path in (Path(folder, tenant.canary), Path(folder, tenant.account))
        if path.exists()
    ]


def untouched(world: World, key: str) -> list[str]:
    """What somebody sees on a host on which nobody was before: their key, and what every new home
    has."""
    skeleton = [f"./{path.name}" for path in world.host.path("/etc/skel").iterdir()]
    return [key, *sorted([*skeleton, "./.ssh", "./.ssh/authorized_keys"])]
