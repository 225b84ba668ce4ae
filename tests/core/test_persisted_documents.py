"""Documents under their hash: found from every replica, bounded, and none depends on them."""

import uuid
from collections.abc import AsyncIterator
from typing import cast

import pytest
from redis.asyncio import Redis

from remotegpu_core import persisted_documents as module
from remotegpu_core.actor import Actor, ActorKind, anonymous
from remotegpu_core.bus import keys
from remotegpu_core.bus.connection import connect
from remotegpu_core.persisted_documents import MAX_DOCUMENT, PersistedDocuments, digest_of
from tests.services.redis import RedisServer


def user() -> Actor:
    identity = uuid.uuid4()
    return Actor(ActorKind.USER, id=identity, user_id=identity)


@pytest.fixture(params=["embedded", "redis"])
async def redis(request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    url = request.getfixturevalue("redis_url") if request.param == "redis" else None
    client = connect(url)
    yield client
    await client.aclose()


async def _added(documents: PersistedDocuments, actor: Actor, source: str) -> str:
    digest = digest_of(source)
    await documents.keep(actor, digest, source)
    return digest


async def test_what_one_replica_is_told_another_finds(redis: Redis) -> None:
    here, there = PersistedDocuments(redis), PersistedDocuments(redis)
    digest = await _added(here, user(), "{ ü }")
    assert await there.find(digest) == "{ ü }"
    assert await there.find(digest_of("{ b }")) is None
    # Once found it is held, and Redis may forget it.
    await redis.flushall()
    assert await there.find(digest) == "{ ü }"
    assert await PersistedDocuments(redis).find(digest) is None


async def test_strangers_add_nothing_and_nobody_adds_a_long_one(redis: Redis) -> None:
    documents = PersistedDocuments(redis)
    assert await documents.find(await _added(documents, anonymous("192.0.2.1"), "{ a }")) is None
    long = "{ a }" + " " * MAX_DOCUMENT
    assert await documents.find(await _added(documents, user(), long)) is None
    assert await redis.dbsize() == 0


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ADDED", 3)
    monkeypatch.setattr(module, "MAX_DOCUMENTS", 4)
    monkeypatch.setattr(module, "MAX_BYTES", 100)


@pytest.mark.usefixtures("small")
async def test_the_ones_used_longest_ago_make_room(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0

    def tick() -> int:
        nonlocal now
        now += 1
        return now

    monkeypatch.setattr(module, "now_ms", tick)

    async def kept() -> list[str]:
        held = cast("list[bytes]", await redis.hvals(keys.DOCUMENTS))
        return sorted(value.decode() for value in held)

    for name in "abcd":
        await _added(PersistedDocuments(redis), user(), name)
    # Asking for one is a use.
    assert await PersistedDocuments(redis).find(digest_of("a")) == "a"
    await _added(PersistedDocuments(redis), user(), "e")
    assert await kept() == ["a", "c", "d", "e"]
    await _added(PersistedDocuments(redis), user(), "f" * 98)
    assert await kept() == ["a", "e", "f" * 98]
    assert int(await redis.get(keys.DOCUMENTS_BYTES) or 0) <= 100
    assert await redis.zcard(keys.DOCUMENTS_USED) == len(await kept())


@pytest.mark.usefixtures("small")
async def test_one_user_adds_so_many_and_others_still_may(redis: Redis) -> None:
    documents, busy = PersistedDocuments(redis), user()
    for name in "abcde":
        await _added(documents, busy, name)
    found = [await documents.find(digest_of(name)) for name in "abcde"]
    assert found == ["a", "b", "c", None, None]
    # Naming again what is there costs nothing.
    await _added(PersistedDocuments(redis), busy, "a")
    assert await documents.find(await _added(documents, user(), "d")) == "d"
    assert 0 < await redis.ttl(keys.documents_added_key(busy.user_id or uuid.uuid4())) <= 3600
    assert 0 < await redis.ttl(keys.DOCUMENTS) <= module.LIFETIME


async def test_without_redis_each_replica_knows_its_own(private_redis: RedisServer) -> None:
    client = connect(private_redis.url)
    documents = PersistedDocuments(client)
    private_redis.kill()
    digest = await _added(documents, user(), "{ a }")
    assert await documents.find(digest) == "{ a }"
    assert await documents.find(digest_of("{ b }")) is None
    await client.aclose()
