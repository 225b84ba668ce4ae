import asyncio

import pytest

from remotegpu_core.actor import SYSTEM, ActorKind, Role, Scope, anonymous
from remotegpu_core.clock import now_ms
from remotegpu_core.database.connection import Database
from remotegpu_core.errors import InvalidCredentials, Unauthenticated
from remotegpu_core.models import ApiToken, AuditEvent, Session, User, Version
from remotegpu_core.passwords import hash_password, verify_password
from remotegpu_core.secret import Kind, kind_of, new_secret, secret_hash
from remotegpu_core.services import sign_in as service
from remotegpu_core.services.api_tokens import create_api_token, revoke_api_token
from remotegpu_core.services.sign_in import (
    authenticate,
    prune,
    sign_in,
    sign_out,
    still_valid,
)
from remotegpu_core.services.users import reset_password
from remotegpu_core.settings import Settings
from remotegpu_core.versions import Topic
from tests.core.people import make_actor, make_user

pytestmark = pytest.mark.usefixtures("database")

PASSWORD = "right-Passw0rd"
SOURCE = "192.0.2.9"


@pytest.fixture
async def alice(database: Database) -> User:
    user = await make_user("alice")
    user.password_hash = await hash_password(PASSWORD)
    await user.save()
    return user


async def access() -> int:
    version = await Version.get(name=Topic.ACCESS)
    return int(version.value)


async def test_a_session_for_the_right_password(settings: Settings, alice: User) -> None:
    before = now_ms()
    signed_in = await sign_in(settings, " Alice ", PASSWORD, source_address=SOURCE)
    assert kind_of(signed_in.token) is Kind.SESSION
    assert signed_in.user.id == alice.id
    lifetime = settings.session_lifetime * 1000
    assert before + lifetime <= signed_in.session.expires_at <= now_ms() + lifetime

    actor = await authenticate(signed_in.token, source_address=SOURCE)
    assert actor == signed_in.actor
    assert (actor.kind, actor.id, actor.user_id) == (ActorKind.USER, alice.id, alice.id)
    assert (actor.role, actor.scopes) == (Role.USER, frozenset(Scope))
    assert (actor.credential_id, actor.source_address) == (signed_in.session.id, SOURCE)


@pytest.mark.parametrize("typed", ["ALICE", "\uff21\uff4c\uff49\uff43\uff45", "alice\u3000"])
async def test_a_name_as_other_keyboards_type_it(
    settings: Settings, alice: User, typed: str
) -> None:
    signed_in = await sign_in(settings, typed, PASSWORD, source_address=SOURCE)
    assert signed_in.user.id == alice.id


async def test_only_the_hash_is_stored(settings: Settings, alice: User) -> None:
    signed_in = await sign_in(settings, "alice", PASSWORD, source_address=SOURCE)
    row = (await Session.filter(id=signed_in.session.id).values())[0]
    assert row["token_hash"] == secret_hash(signed_in.token)
    assert signed_in.token not in str(row)
    assert signed_in.token.removeprefix("rgs_") not in str(row)


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("alice", "wrong-Passw0rd"),
        ("alice", ""),
        ("nobody", PASSWORD),
        ("", PASSWORD),
        ("alice\x00bob", PASSWORD),
        ("\ud800", PASSWORD),
        ("x" * 100_000, PASSWORD),
        ("alice", "x" * 100_000),
        ("alice", "\ud800\x00"),
    ],
)
async def test_one_answer_whatever_was_wrong(
    settings: Settings, alice: User, name: str, password: str
) -> None:
    with pytest.raises(InvalidCredentials) as caught:
        await sign_in(settings, name, password, source_address=SOURCE)
    assert caught.value.message == "The user name or the password is wrong."
    assert await Session.all().count() == 0
    # For the audit trail. What was typed may be a password in the wrong field.
    assert caught.value.target == (("User", alice.id) if name == "alice" else None)
    assert not await AuditEvent.exists()


async def test_a_disabled_user_cannot_sign_in_and_is_out_at_once(
    settings: Settings, alice: User
) -> None:
    signed_in = await sign_in(settings, "alice", PASSWORD, source_address=SOURCE)
    await User.filter(id=alice.id).update(disabled_at=now_ms())
    with pytest.raises(Unauthenticated):
        await authenticate(signed_in.token)
    assert await still_valid([signed_in.actor]) == {}
    with pytest.raises(InvalidCredentials):
        await sign_in(settings, "alice", PASSWORD, source_address=SOURCE)


async def test_signing_out_ends_this_session_alone(settings: Settings, alice: User) -> None:
    first = await sign_in(settings, "alice", PASSWORD, source_address=SOURCE)
    second = await sign_in(settings, "alice", PASSWORD, source_address=SOURCE)
    before = await access()
    await sign_out(first.actor)
    assert await access() == before + 1
    with pytest.raises(Unauthenticated):
        await authenticate(first.token)
    assert await still_valid([first.actor, second.actor]) == {
        second.session.id: second.actor.at(None)
    }


async def test_nothing_to_sign_out_of(alice: User) -> None:
    actor = await make_actor(alice)
    token, _ = await create_api_token(actor, "ci", frozenset({Scope.READ}), None)
    for caller in (anonymous(), await authenticate(token)):
        with pytest.raises(Unauthenticated):
            await sign_out(caller)


async def test_a_session_ends_by_itself(alice: User) -> None:
    actor = await make_actor(alice)
    await Session.filter(id=actor.credential_id).update(expires_at=now_ms())
    assert await still_valid([actor]) == {}


@pytest.mark.parametrize(
    "token",
    [
        "",
        "rgs_",
        "rgs_" + "a" * 43,
        "rga_" + "a" * 43,
        "rge_" + "a" * 43,
        "rgs_\x00\ud800",
        "x" * 10_000,
    ],
)
async def test_a_token_that_nobody_has(token: str) -> None:
    with pytest.raises(Unauthenticated, match="unknown, expired or revoked") as caught:
        await authenticate(token)
    assert not token or token not in caught.value.message


async def test_a_hash_is_no_token(settings: Settings, alice: User) -> None:
    signed_in = await sign_in(settings, "alice", PASSWORD, source_address=SOURCE)
    for text in (secret_hash(signed_in.token), f"rgs_{secret_hash(signed_in.token)}"):
        with pytest.raises(Unauthenticated):
            await authenticate(text)


async def test_tokens_of_one_kind_are_not_taken_for_another(alice: User) -> None:
    secret = new_secret(Kind.API_TOKEN)
    await Session.create(
        user=alice, token_hash=secret_hash(secret), created_at=1, expires_at=now_ms() + 10_000
    )
    with pytest.raises(Unauthenticated):
        await authenticate(secret)


async def test_what_has_changed_since_shows(alice: User) -> None:
    actor = await make_actor(alice)
    token, row = await create_api_token(actor, "ci", frozenset({Scope.WRITE}), now_ms() + 60_000)
    program = await authenticate(token)
    assert program.scopes == {Scope.READ, Scope.WRITE}
    assert program.expires_at == row.expires_at

    await User.filter(id=alice.id).update(role=Role.ADMIN)
    now = await still_valid([actor, program, anonymous()])
    assert {valid.role for valid in now.values()} == {Role.ADMIN}
    assert set(now) == {actor.credential_id, row.id}

    await revoke_api_token(actor, row.id)
    assert set(await still_valid([actor, program])) == {actor.credential_id}
    with pytest.raises(Unauthenticated):
        await authenticate(token)


async def test_a_reset_while_the_old_password_is_being_verified_lets_nobody_in(
    settings: Settings, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = verify_password

    async def slowly(password: str, stored: str | None) -> bool:
        right = await verify(password, stored)
        await reset_password(SYSTEM, "alice", "another-Passw0rd")
        return right

    monkeypatch.setattr(service, "verify_password", slowly)
    with pytest.raises(InvalidCredentials):
        await sign_in(settings, "alice", PASSWORD, source_address=SOURCE)
    assert await Session.filter(revoked_at=None).count() == 0


async def test_a_weaker_hash_is_replaced_and_never_over_a_newer_password(
    settings: Settings, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "needs_rehash", lambda _stored: True)
    await sign_in(settings, "alice", PASSWORD, source_address=SOURCE)
    assert (await User.get(id=alice.id)).password_hash != alice.password_hash

    hash_ = hash_password

    async def slowly(password: str) -> str:
        stronger = await hash_(password)
        await reset_password(SYSTEM, "alice", "another-Passw0rd")
        return stronger

    monkeypatch.setattr(service, "hash_password", slowly)
    await sign_in(settings, "alice", PASSWORD, source_address=SOURCE)
    monkeypatch.setattr(service, "needs_rehash", lambda _stored: False)
    with pytest.raises(InvalidCredentials):
        await sign_in(settings, "alice", PASSWORD, source_address=SOURCE)
    await sign_in(settings, "alice", "another-Passw0rd", source_address=SOURCE)


async def test_many_sign_in_at_once(settings: Settings, alice: User) -> None:
    signed_in = await asyncio.gather(
        *(sign_in(settings, "alice", PASSWORD, source_address=f"192.0.2.{n}") for n in range(10))
    )
    assert len({one.token for one in signed_in}) == 10


async def test_a_program_is_noted_once_a_minute(alice: User) -> None:
    token, row = await create_api_token(
        await make_actor(alice), "ci", frozenset({Scope.READ}), None
    )
    assert row.last_used_at is None
    await authenticate(token)
    first = (await ApiToken.get(id=row.id)).last_used_at
    assert first is not None
    await authenticate(token)
    assert (await ApiToken.get(id=row.id)).last_used_at == first
    await ApiToken.filter(id=row.id).update(last_used_at=first - 60_000)
    await authenticate(token)
    assert (await ApiToken.get(id=row.id)).last_used_at != first - 60_000


async def test_ended_sessions_are_forgotten_after_a_day(alice: User) -> None:
    old, ended, open_ = [await make_actor(alice) for _ in range(3)]
    await Session.filter(id=old.credential_id).update(expires_at=now_ms() - 86_400_001)
    await Session.filter(id=ended.credential_id).update(expires_at=now_ms() - 80_000_000)
    await prune()
    assert {session.id for session in await Session.all()} == {
        ended.credential_id,
        open_.credential_id,
    }
