import asyncio
import sys
import uuid
from asyncio.subprocess import PIPE

import pytest

from remotegpu_core.actor import SYSTEM, Actor, Role, Scope, anonymous
from remotegpu_core.errors import (
    Conflict,
    Forbidden,
    InvalidCredentials,
    InvalidInput,
    LockedOut,
    NotFound,
    RemoteGPUError,
    Unauthenticated,
)
from remotegpu_core.models import ApiToken, AuditEvent, Session, User, Version
from remotegpu_core.paging import PageRequest
from remotegpu_core.passwords import hash_password, verify_password
from remotegpu_core.services import users
from remotegpu_core.services.api_tokens import create_api_token
from remotegpu_core.services.lockout import PAIR_LIMIT
from remotegpu_core.services.sign_in import authenticate, sign_in, still_valid
from remotegpu_core.services.users import (
    change_password,
    create_user,
    disable_user,
    enable_user,
    ensure_admin,
    list_users,
    reset_password,
    set_role,
    visible_users,
)
from remotegpu_core.settings import Settings
from remotegpu_core.versions import Topic
from tests.core.people import make_actor, make_tenant, make_user

pytestmark = pytest.mark.usefixtures("database")

PASSWORD = "mallory-Passw0rd-1"
NEW = "another-Passw0rd-2"


async def test_an_admin_adds_users_who_can_sign_in(admin: Actor, settings: Settings) -> None:
    user = await create_user(admin, "Mallory", PASSWORD, Role.USER)
    assert (user.username, user.username_key, user.role) == ("Mallory", "mallory", Role.USER)
    signed_in = await sign_in(settings, "mallory", PASSWORD, source_address=None)
    assert signed_in.user.id == user.id


@pytest.mark.parametrize("name", ["mallory", "MALLORY"])
async def test_a_name_is_taken_in_any_case(admin: Actor, name: str) -> None:
    await create_user(admin, "Mallory", PASSWORD, Role.USER)
    with pytest.raises(Conflict) as caught:
        await create_user(admin, name, PASSWORD, Role.ADMIN)
    assert caught.value.field == ["username"]


@pytest.mark.parametrize(
    "name", ["", "a b", "-a", "a-", "é", "a\x00b", "a\n", "x" * 65, "x" * 100_000, "\ud800"]
)
async def test_names_that_cannot_be(admin: Actor, name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await create_user(admin, name, PASSWORD, Role.USER)
    assert caught.value.field == ["username"]
    assert len(caught.value.message) < 400


async def test_weak_passwords_are_refused_and_not_repeated(admin: Actor) -> None:
    with pytest.raises(InvalidInput) as caught:
        await create_user(admin, "mallory", "aaaaaaaaaaaa", Role.USER)
    assert caught.value.field == ["password"]
    assert "aaaa" not in caught.value.message
    assert not await User.exists(username_key="mallory")


async def test_only_admins_may(admin: Actor) -> None:
    token, _ = await create_api_token(admin, "writer", frozenset({Scope.WRITE}), None)
    for actor, refusal in (
        (await make_tenant(), Forbidden),
        (await authenticate(token), Forbidden),
        (anonymous(), Unauthenticated),
    ):
        expected: type[RemoteGPUError] = refusal
        with pytest.raises(expected):
            await create_user(actor, "mallory", PASSWORD, Role.USER)
        with pytest.raises(expected):
            await reset_password(actor, "mallory", NEW)
        with pytest.raises(expected):
            await list_users(actor, PageRequest())
    assert not await User.exists(username_key="mallory")


async def test_of_many_who_take_a_name_at_once_one_gets_it(admin: Actor) -> None:
    async def take(name: str) -> bool:
        try:
            await create_user(admin, name, PASSWORD, Role.USER)
        except Conflict:
            return False
        return True

    taken = await asyncio.gather(*(take(name) for name in ("eve", "Eve", "EVE", "eVe")))
    assert sum(taken) == 1


async def test_the_first_start_makes_an_admin_once(settings: Settings) -> None:
    made_up = await asyncio.gather(*(ensure_admin(None) for _ in range(4)))
    passwords = [password for password in made_up if password is not None]
    assert len(passwords) == 1
    admin = await User.get()
    assert (admin.username, admin.role) == ("admin", Role.ADMIN)
    await sign_in(settings, "admin", passwords[0], source_address=None)
    assert await ensure_admin(None) is None


async def test_the_first_password_may_be_given(settings: Settings) -> None:
    with pytest.raises(InvalidInput):
        await ensure_admin("admin")
    assert await User.all().count() == 0
    assert await ensure_admin(PASSWORD) is None
    await sign_in(settings, "admin", PASSWORD, source_address=None)
    assert await ensure_admin(NEW) is None
    with pytest.raises(InvalidCredentials):
        await sign_in(settings, "admin", NEW, source_address=None)


async def test_no_admin_is_added_to_users_that_are_there() -> None:
    await make_user("somebody")
    assert await ensure_admin(None) is None
    assert await User.all().count() == 1


FIRST_START = """
import asyncio, sys
from remotegpu_core.database.connection import Database
from remotegpu_core.services.users import ensure_admin
from remotegpu_core.settings import load_settings

async def main():
    database = Database(load_settings(data_dir=sys.argv[1], database_url=sys.argv[2] or None))
    await database.open()
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        print(await ensure_admin(None) or "-")
    finally:
        await database.close()

asyncio.run(main())
"""


async def test_two_processes_that_start_first_make_one_admin(settings: Settings) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", FIRST_START, str(settings.data_dir)),
            settings.database_url or "",
            stdin=PIPE,
            stdout=PIPE,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    shown = [output.decode().strip() for output, _ in outputs]
    assert sorted(len(password) for password in shown) == [1, 24]
    admin = await User.get()
    assert await verify_password(max(shown, key=len), admin.password_hash)


async def test_a_reset_ends_every_session_and_lifts_the_lock(
    admin: Actor, settings: Settings
) -> None:
    await create_user(admin, "mallory", PASSWORD, Role.USER)
    sessions = [await sign_in(settings, "mallory", PASSWORD, source_address="a") for _ in range(2)]
    for _ in range(PAIR_LIMIT):
        with pytest.raises(InvalidCredentials):
            await sign_in(settings, "mallory", NEW, source_address="a")
    with pytest.raises(LockedOut):
        await sign_in(settings, "mallory", PASSWORD, source_address="a")
    before = (await Version.get(name=Topic.ACCESS)).value

    reset = await reset_password(admin, "MALLORY", NEW)
    assert (reset.password, reset.sessions) == (None, 2)
    assert await still_valid([one.actor for one in sessions]) == {}
    assert (await Version.get(name=Topic.ACCESS)).value == before + 1
    with pytest.raises(InvalidCredentials):
        await sign_in(settings, "mallory", PASSWORD, source_address="b")
    await sign_in(settings, "mallory", NEW, source_address="a")
    assert set(await still_valid([admin])) == {admin.credential_id}


async def test_a_reset_can_make_a_password_up(settings: Settings) -> None:
    await create_user(SYSTEM, "mallory", PASSWORD, Role.USER)
    made_up = (await reset_password(SYSTEM, "mallory", None)).password
    assert made_up is not None
    await sign_in(settings, "mallory", made_up, source_address=None)


async def test_a_reset_ends_api_tokens_unless_they_are_to_be_kept(settings: Settings) -> None:
    await create_user(SYSTEM, "mallory", PASSWORD, Role.USER)
    mallory = (await sign_in(settings, "mallory", PASSWORD, source_address=None)).actor
    token, _ = await create_api_token(mallory, "ci", frozenset({Scope.READ}), None)
    kept = await reset_password(SYSTEM, "mallory", NEW, keep_api_tokens=True)
    assert kept.api_tokens == 0
    program = await authenticate(token)
    assert (await reset_password(SYSTEM, "mallory", PASSWORD)).api_tokens == 1
    with pytest.raises(Unauthenticated):
        await authenticate(token)
    assert await still_valid([program]) == {}
    # What was under way meanwhile makes no token that outlives the reset.
    for actor in (mallory, program):
        with pytest.raises((Unauthenticated, Forbidden)):
            await create_api_token(actor, "more", frozenset({Scope.READ}), None)
    assert not await ApiToken.exists(revoked_at=None)


async def test_a_change_ends_api_tokens_when_that_is_wanted(settings: Settings) -> None:
    await create_user(SYSTEM, "mallory", PASSWORD, Role.USER)
    mallory = (await sign_in(settings, "mallory", PASSWORD, source_address=None)).actor
    token, _ = await create_api_token(mallory, "ci", frozenset({Scope.READ}), None)
    await change_password(mallory, PASSWORD, NEW)
    await authenticate(token)
    await change_password(mallory, NEW, PASSWORD, revoke_api_tokens=True)
    with pytest.raises(Unauthenticated):
        await authenticate(token)


@pytest.mark.parametrize("name", ["nobody", "", "a\x00b", "\ud800", "x" * 100_000])
async def test_a_reset_of_nobody(name: str) -> None:
    with pytest.raises(NotFound) as caught:
        await reset_password(SYSTEM, name, NEW)
    assert len(caught.value.message) < 200


async def test_changing_ones_password_ends_the_other_sessions(
    admin: Actor, settings: Settings
) -> None:
    await create_user(admin, "mallory", PASSWORD, Role.USER)
    here, there = [await sign_in(settings, "mallory", PASSWORD, source_address="a") for _ in "12"]
    await change_password(here.actor, PASSWORD, NEW)
    assert set(await still_valid([here.actor, there.actor])) == {here.session.id}
    await sign_in(settings, "mallory", NEW, source_address="a")


async def test_a_session_that_was_stolen_cannot_guess_the_password(
    admin: Actor, settings: Settings
) -> None:
    await create_user(admin, "mallory", PASSWORD, Role.USER)
    actor = (await sign_in(settings, "mallory", PASSWORD, source_address="a")).actor
    for _ in range(PAIR_LIMIT):
        with pytest.raises(InvalidCredentials) as caught:
            await change_password(actor, "wrong-Passw0rd", NEW)
        assert caught.value.field == ["currentPassword"]
    with pytest.raises(LockedOut):
        await change_password(actor, PASSWORD, NEW)


async def test_a_new_password_keeps_the_rules(admin: Actor, settings: Settings) -> None:
    await create_user(admin, "mallory", PASSWORD, Role.USER)
    actor = (await sign_in(settings, "mallory", PASSWORD, source_address="a")).actor
    with pytest.raises(InvalidInput):
        await change_password(actor, PASSWORD, "short")
    with pytest.raises(Unauthenticated):
        await change_password(anonymous(), PASSWORD, NEW)
    await sign_in(settings, "mallory", PASSWORD, source_address="a")


async def test_an_admins_reset_stands_over_a_change_that_was_under_way(
    admin: Actor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create_user(admin, "mallory", PASSWORD, Role.USER)
    actor = (await sign_in(settings, "mallory", PASSWORD, source_address="a")).actor
    hash_ = hash_password

    async def slowly(password: str) -> str:
        hashed = await hash_(password)
        monkeypatch.setattr(users, "hash_password", hash_)
        await reset_password(SYSTEM, "mallory", "reset-Passw0rd-3")
        return hashed

    monkeypatch.setattr(users, "hash_password", slowly)
    with pytest.raises(InvalidCredentials):
        await change_password(actor, PASSWORD, NEW)
    await sign_in(settings, "mallory", "reset-Passw0rd-3", source_address="a")
    assert not await AuditEvent.exists(action="changePassword")


async def test_users_see_themselves_and_admins_all(admin: Actor) -> None:
    alice, bob = await make_tenant(), await make_user()
    assert alice.user_id is not None
    ids = [alice.user_id, bob.id, uuid.uuid4()]
    assert set(await visible_users(alice, ids)) == {alice.user_id}
    assert set(await visible_users(admin, ids)) == {alice.user_id, bob.id}
    assert await visible_users(anonymous(), ids) == {}
    page = await list_users(admin, PageRequest(first=2))
    assert [row.username_key for row in page.rows] == sorted(row.username_key for row in page.rows)
    assert await page.count() == 3


async def test_a_disabled_user_is_shut_out_for_good(admin: Actor) -> None:
    user = await make_user("Ada")
    actor = await make_actor(user)
    token, _ = await create_api_token(actor, "ci", frozenset({Scope.READ}), expires_at=None)
    disabled = await disable_user(admin, user.id)
    assert disabled.disabled_at is not None
    assert await Session.filter(user_id=user.id, revoked_at=None).count() == 0
    with pytest.raises(Unauthenticated):
        await authenticate(token, source_address=None)
    assert (await disable_user(admin, user.id)).disabled_at == disabled.disabled_at
    assert (await enable_user(admin, user.id)).disabled_at is None
    # What was taken stays taken.
    with pytest.raises(Unauthenticated):
        await authenticate(token, source_address=None)
    assert [
        event.details["changed"] for event in await AuditEvent.filter(action="disableUser")
    ] == [
        "yes",
        "no",
    ]


async def test_an_admin_is_left(admin: Actor) -> None:
    admin_id = admin.require_user()
    with pytest.raises(Conflict, match="last admin"):
        await set_role(admin, admin_id, Role.USER)
    with pytest.raises(Conflict, match="yourself"):
        await disable_user(admin, admin_id)
    with pytest.raises(Conflict, match="last admin"):
        await disable_user(SYSTEM, admin_id)
    second = await make_user(role=Role.ADMIN)
    outcomes = await asyncio.gather(
        disable_user(SYSTEM, admin_id), disable_user(SYSTEM, second.id), return_exceptions=True
    )
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 1
    assert await User.filter(role=Role.ADMIN, disabled_at=None).count() == 1


async def test_accounts_are_managed_by_admins(admin: Actor) -> None:
    user = await make_user()
    assert (await set_role(admin, user.id, Role.ADMIN)).role is Role.ADMIN
    tenant = await make_tenant()
    for actor, user_id, refusal in (
        (tenant, user.id, Forbidden),
        (admin, uuid.uuid4(), NotFound),
    ):
        expected: type[Exception] = refusal
        for attempt in (
            set_role(actor, user_id, Role.USER),
            disable_user(actor, user_id),
            enable_user(actor, user_id),
        ):
            with pytest.raises(expected):
                await attempt
    assert (await User.get(id=user.id)).role is Role.ADMIN
