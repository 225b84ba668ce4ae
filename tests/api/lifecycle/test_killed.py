"""The agent killed at every step of taking a machine back, and while it makes an account."""

from collections import Counter
from pathlib import Path

import pytest

from tests.api.lifecycle.checker import watching
from tests.api.lifecycle.host import SHARED, Agent
from tests.api.lifecycle.mortal import DIED
from tests.api.lifecycle.people import PATIENCE, user_of
from tests.api.lifecycle.world import World, world_of
from tests.api.plane import Server
from tests.core.patience import until

pytestmark = [pytest.mark.timeout(600)]

_MORTAL = "from tests.api.lifecycle.mortal import main; main()"

#: Has useradd take its time, and say that it has begun.
_SLOW_USERADD = r"""
cp /usr/sbin/useradd /run/useradd
printf '#!/bin/sh\necho begun >> /run/shared/adding\nsleep 1\nexec /run/useradd "$@"\n' > /run/slow
chmod 755 /run/slow
mount --bind /run/slow /usr/sbin/useradd
"""


async def killed_while_it_makes_an_account(world: World, allocation: str) -> Agent:
    """useradd lives on; the next agent finds what came of it, and nothing is made twice."""
    adding = world.host.folder / "adding"
    agent = await world.host.agent()
    await until(adding.exists, patience=PATIENCE)
    await agent.kill()
    agent = await world.host.agent()
    await world.admin.reached(allocation, "ACTIVE")
    lines = world.host.path("/etc/passwd").read_text().splitlines()
    names = Counter(line.partition(":")[0] for line in lines)
    assert names[world.tenants[-1].account] == 1
    assert max(names.values()) == 1
    return agent


async def killed(server: Server, folder: Path, *, stride: int) -> int:
    """How often it died while the machine was taken back."""
    async with world_of(server, folder) as world:
        ada, keys = await user_of(world.admin, "ada"), world.keys("ada")
        await ada.add_key("laptop", await keys.make("first"))
        agent = await world.host.agent()
        await world.ready()
        await agent.kill()
        await world.host.shell(_SLOW_USERADD)
        async with watching(world.machine) as watch:
            allocation, tenant = await world.give(ada, keys)
            agent = await killed_while_it_makes_an_account(world, allocation)
            assert await tenant.enters("first")
            await tenant.plant("first")
            uid = tenant.uid
            await agent.kill()
            operation = await ada.release(allocation)
            await world.host.python(
                *(_MORTAL, str(SHARED / "state"), str(SHARED / "moments"), str(stride)),
                log="mortal.log",
            )
            assert (await ada.ended(operation, patience=400))["state"] == "SUCCEEDED"
            receipt = (await ada.reached(allocation, "RELEASED"))["cleaningReceipt"]
            assert receipt["verified"]
            assert await tenant.residue(uid) == []
            assert not await tenant.enters("first")
            await until(lambda: watch.free)
        moments = [line.partition(" ") for line in world.host.log("moments").splitlines()]
        surfaces = {name.partition(": ")[2] for _, _, name in moments if "cleaning: " in name}
        assert surfaces == {item["surface"] for item in receipt["items"]}
        return Counter(how for how, _, _ in moments)[DIED]


async def test_killed_now_and_then(server: Server, tmp_path: Path) -> None:
    assert await killed(server, tmp_path, stride=7) > 8


@pytest.mark.soak
async def test_killed_at_every_step(server: Server, tmp_path: Path) -> None:
    assert await killed(server, tmp_path, stride=1) > 60
