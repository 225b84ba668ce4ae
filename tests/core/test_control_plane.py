import asyncio
import uuid

import pytest
from pydantic import SecretStr

from remotegpu_core.control_plane import control_plane
from remotegpu_core.errors import InvalidInput
from remotegpu_core.models import User
from remotegpu_core.services.sign_in import sign_in
from remotegpu_core.settings import Settings
from tests.core.hosts import make_machine, sample
from tests.core.patience import eventually


@pytest.mark.parametrize("with_redis", [False, True], ids=["in-process", "redis"])
async def test_the_first_start_and_the_second(
    empty_settings: Settings, request: pytest.FixtureRequest, with_redis: bool
) -> None:
    url = request.getfixturevalue("redis_url") if with_redis else None
    settings = empty_settings.model_copy(update={"redis_url": url})
    async with control_plane(settings) as plane:
        password = plane.first_password
        assert password is not None
        await sign_in(settings, "admin", password, source_address=None)
        machine = await make_machine()
        following = plane.samples.samples(machine.id, interval=None)
        first = asyncio.ensure_future(anext(following))

        async def arrived() -> bool:
            await plane.bus.publish_sample(machine.id, sample(1, 7))
            return first.done()

        await eventually(arrived)
        assert (await first).sampled_at == 7
        await following.aclose()
        replica = plane.replica_id

    async with control_plane(settings) as plane:
        assert plane.first_password is None
        assert plane.replica_id != replica
        await sign_in(settings, "admin", password, source_address=None)
        assert await User.all().count() == 1
    assert _own_tasks() == set()


async def test_a_first_password_that_is_too_weak_leaves_nothing_open(
    empty_settings: Settings,
) -> None:
    settings = empty_settings.model_copy(update={"admin_password": SecretStr("short")})
    with pytest.raises(InvalidInput, match="password"):
        async with control_plane(settings):
            pass
    async with control_plane(empty_settings) as plane:
        assert plane.first_password is not None


async def test_a_wrong_redis_url_leaves_nothing_open(empty_settings: Settings) -> None:
    settings = empty_settings.model_copy(update={"redis_url": "http://nowhere"})
    with pytest.raises(InvalidInput, match="REMOTEGPU_REDIS_URL"):
        async with control_plane(settings):
            pass
    async with control_plane(empty_settings):
        pass


async def test_it_starts_while_redis_is_away(empty_settings: Settings, free_port: int) -> None:
    settings = empty_settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{free_port}"})
    async with asyncio.timeout(20), control_plane(settings) as plane:
        assert await plane.bus.live([uuid.uuid4()]) == {}
        assert plane.first_password is not None
    assert _own_tasks() == set()


def _own_tasks() -> set[str]:
    return {
        task.get_name()
        for task in asyncio.all_tasks()
        if task.get_name() in {"version-watch", "sample-feed", "bus-listener", "bus-writer"}
    }
