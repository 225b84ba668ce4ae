import pytest
from fakeredis import FakeAsyncRedis

from remotegpu_core.bus.connection import connect
from remotegpu_core.errors import InvalidInput


async def test_without_a_url_it_is_in_process_and_ones_own() -> None:
    first, second = connect(None), connect(None)
    assert isinstance(first, FakeAsyncRedis)
    await first.set("key", "value")
    assert await second.get("key") is None
    await first.aclose()
    await second.aclose()


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
async def test_a_url_with_everything(scheme: str) -> None:
    client = connect(f"{scheme}://me:p%40ss@bus.example.org:6380/3")
    values = client.connection_pool.connection_kwargs
    assert (values["host"], values["port"], values["db"]) == ("bus.example.org", 6380, 3)
    assert (values["username"], values["password"]) == ("me", "p@ss")
    await client.aclose()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://S3cret-word@h",
        "redis://:x@h:S3cret-word/0",
        "redis://:S3cret-word/more@h/0",
        "redis://:S3cret-word#more@h/0",
        "redis://[S3cret-word",
        "redis://h/0?socket_timeout=S3cret-word",
    ],
)
def test_a_url_that_cannot_be_used_is_explained_without_its_secrets(url: str) -> None:
    with pytest.raises(InvalidInput, match="REMOTEGPU_REDIS_URL") as caught:
        connect(url)
    assert "S3cret-word" not in caught.value.message
