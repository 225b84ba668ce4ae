import asyncio
import uuid

import pytest

from remotegpu_core.actor import Actor, Role, Scope, anonymous
from remotegpu_core.clock import now_ms
from remotegpu_core.database.connection import Database
from remotegpu_core.errors import (
    Forbidden,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Unauthenticated,
)
from remotegpu_core.models import ApiToken, Version
from remotegpu_core.paging import PageRequest
from remotegpu_core.secret import secret_hash
from remotegpu_core.services import api_tokens
from remotegpu_core.services.api_tokens import (
    create_api_token,
    list_api_tokens,
    revoke_api_token,
    visible_api_tokens,
)
from remotegpu_core.services.sign_in import authenticate
from remotegpu_core.versions import Topic
from tests.core.people import make_tenant

READ = frozenset({Scope.READ})

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
async def alice(database: Database) -> Actor:
    return await make_tenant()


async def test_a_token_is_shown_once_and_stored_as_a_hash(alice: Actor) -> None:
    token, row = await create_api_token(alice, "ci", READ, None)
    assert token.startswith("rga_")
    assert (await authenticate(token)).user_id == alice.user_id
    stored = (await ApiToken.filter(id=row.id).values())[0]
    assert stored["token_hash"] == secret_hash(token)
    assert token.removeprefix("rga_") not in str(stored)


@pytest.mark.parametrize("name", ["", " ", "x" * 65, "a\nb", "a\x00b", " ci", "\ud800", "a\u202eb"])
async def test_names_that_cannot_be(alice: Actor, name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await create_api_token(alice, name, READ, None)
    assert caught.value.field == ["name"]


async def test_no_scope_and_an_end_in_the_past(alice: Actor) -> None:
    with pytest.raises(InvalidInput, match="scope"):
        await create_api_token(alice, "ci", frozenset(), None)
    with pytest.raises(InvalidInput, match="past"):
        await create_api_token(alice, "ci", READ, now_ms())


async def test_nobody_gives_away_what_they_do_not_have(alice: Actor, admin: Actor) -> None:
    with pytest.raises(Forbidden):
        await create_api_token(alice, "ci", frozenset({Scope.ADMIN}), None)
    await create_api_token(admin, "ci", frozenset({Scope.ADMIN}), None)
    token, _ = await create_api_token(admin, "reader", READ, None)
    reader = await authenticate(token)
    assert reader.role is Role.ADMIN
    for scope in Scope:
        with pytest.raises(Forbidden, match="makes no further tokens"):
            await create_api_token(reader, "more", frozenset({scope}), None)
    with pytest.raises(Unauthenticated):
        await create_api_token(anonymous(), "ci", READ, None)


async def test_a_token_ends(alice: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    token, row = await create_api_token(alice, "ci", READ, now_ms() + 60_000)
    await ApiToken.filter(id=row.id).update(expires_at=now_ms())
    with pytest.raises(Unauthenticated):
        await authenticate(token)


async def test_ones_own_tokens_and_an_admins_reach(alice: Actor, admin: Actor) -> None:
    bob = await make_tenant()
    token, row = await create_api_token(alice, "ci", READ, None)
    with pytest.raises(NotFound):
        await revoke_api_token(bob, row.id)
    with pytest.raises(NotFound):
        await revoke_api_token(alice, uuid.uuid4())
    with pytest.raises(Unauthenticated):
        await revoke_api_token(anonymous(), row.id)
    assert await visible_api_tokens(bob, [row.id]) == {}
    assert await visible_api_tokens(anonymous(), [row.id]) == {}
    assert set(await visible_api_tokens(alice, [row.id])) == {row.id}
    assert set(await visible_api_tokens(admin, [row.id])) == {row.id}

    await authenticate(token)
    assert (await revoke_api_token(admin, row.id)).revoked_at is not None
    with pytest.raises(Unauthenticated):
        await authenticate(token)


async def test_revoking_twice_changes_nothing(alice: Actor) -> None:
    _, row = await create_api_token(alice, "ci", READ, None)
    first = await revoke_api_token(alice, row.id)
    version = (await Version.get(name=Topic.ACCESS)).value
    second = await revoke_api_token(alice, row.id)
    assert second.revoked_at == first.revoked_at
    assert (await Version.get(name=Topic.ACCESS)).value == version


async def test_a_list_of_ones_own_newest_first(alice: Actor) -> None:
    await create_api_token(await make_tenant(), "not mine", READ, None)
    for number in range(5):
        await create_api_token(alice, f"token {number}", READ, None)
    page = await list_api_tokens(alice, PageRequest(first=3))
    assert [row.name for row in page.rows] == ["token 4", "token 3", "token 2"]
    assert await page.count() == 5


async def test_a_bound_that_holds_when_many_come_at_once(
    alice: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_tokens, "MAX_TOKENS", 5)

    async def create(number: int) -> bool:
        try:
            await create_api_token(alice, f"token {number}", READ, now_ms() + 60_000)
        except LimitExceeded:
            return False
        return True

    made = await asyncio.gather(*(create(number) for number in range(20)))
    assert sum(made) == 5
    assert await ApiToken.all().count() == 5

    # What is over takes no place.
    revoked, expired = await ApiToken.all().limit(2)
    await revoke_api_token(alice, revoked.id)
    await ApiToken.filter(id=expired.id).update(expires_at=now_ms())
    assert [await create(number) for number in (21, 22, 23)] == [True, True, False]
