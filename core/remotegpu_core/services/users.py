"""Accounts of people."""

import re
import uuid
from dataclasses import dataclass

from tortoise.exceptions import IntegrityError

from remotegpu_core.actor import SYSTEM, Actor, Role
from remotegpu_core.clock import now_ms
from remotegpu_core.database.transactions import transaction
from remotegpu_core.errors import Conflict, InvalidCredentials, InvalidInput, NotFound
from remotegpu_core.models import Session, User
from remotegpu_core.paging import Order, Page, PageRequest, fetch_page
from remotegpu_core.passwords import (
    check_password_rules,
    hash_password,
    make_password,
    verify_password,
)
from remotegpu_core.services import api_tokens, audit, lockout
from remotegpu_core.texts import composed, name_key, storable
from remotegpu_core.versions import Topic, bump
from remotegpu_protocol.grammar import shorten

USERNAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@-]{0,62}[A-Za-z0-9])?")

BY_NAME = Order("username_key")


async def create_user(actor: Actor, username: str, password: str, role: Role) -> User:
    """Add a user; admins only.

    Raises:
        InvalidInput: the name or the password does not keep the rules.
        Conflict: the name is taken.
    """
    actor.require_admin()
    username = composed(username)
    if not USERNAME.fullmatch(username):
        raise InvalidInput(
            "A user name has 1 to 64 letters, digits, '.', '_', '-' or '@' and begins and ends "
            f"with a letter or digit; got {shorten(username)!r}.",
            field="username",
        )
    check_password_rules(password, username=username)
    hashed = await hash_password(password)
    try:
        async with transaction():
            user = await User.create(
                username=username,
                username_key=name_key(username),
                password_hash=hashed,
                role=role,
                created_at=now_ms(),
            )
            await audit.record(
                actor,
                "createUser",
                target=("User", user.id),
                details={"username": username, "role": role},
            )
    except IntegrityError:
        raise Conflict(
            f"There is a user {username!r} already; choose another name.", field="username"
        ) from None
    return user


async def ensure_admin(password: str | None) -> str | None:
    """On the first start, make the user `admin`.

    Returns the password that was made up for it, to be shown once; None when there are users
    already, or when `password` was given.

    Raises:
        InvalidInput: the given password does not keep the rules.
    """
    if await User.exists():
        return None
    made_up = None if password else make_password()
    try:
        await create_user(SYSTEM, "admin", password or made_up or "", Role.ADMIN)
    except Conflict:
        # Another replica was faster; its log has the password.
        return None
    return made_up


async def change_password(
    actor: Actor, current: str, new: str, *, revoke_api_tokens: bool = False
) -> User:
    """Give the caller another password and end their other sessions, and their tokens if wanted.

    Raises:
        InvalidCredentials: `current` is not the password of today.
        LockedOut: it was guessed too often.
        InvalidInput: the new one does not keep the rules.
    """
    user = await User.get(id=actor.require_user())
    attempt = lockout.by_holder(user.id)
    await lockout.count(attempt, field="currentPassword")
    if not await verify_password(current, user.password_hash):
        raise InvalidCredentials("The current password is wrong.", field="currentPassword")
    await lockout.forgive(attempt)
    check_password_rules(new, username=user.username)
    hashed = await hash_password(new)
    async with transaction():
        # An administrator may have set another password while this one was being hashed.
        unchanged = User.filter(id=user.id, password_hash=user.password_hash)
        if not await unchanged.update(password_hash=hashed):
            raise InvalidCredentials(
                "The password was changed in the meantime: sign in again.",
                field="currentPassword",
            )
        others = Session.filter(user_id=user.id, revoked_at=None)
        if actor.credential_id is not None:
            others = others.exclude(id=actor.credential_id)
        await others.update(revoked_at=now_ms())
        details = {}
        if revoke_api_tokens:
            revoked = await api_tokens.revoke_all(user.id, now_ms())
            details["revoked_api_tokens"] = str(revoked)
        await audit.record(actor, "changePassword", target=("User", user.id), details=details)
        await bump(Topic.ACCESS)
    return user


@dataclass(frozen=True, slots=True)
class PasswordReset:
    """`password` is the one that was made up, None when one was given."""

    password: str | None
    sessions: int
    api_tokens: int


async def reset_password(
    actor: Actor, username: str, password: str | None, *, keep_api_tokens: bool = False
) -> PasswordReset:
    """Give a user another password, end their sessions and API tokens, lift their lockout; admins
    only.

    Raises:
        NotFound: there is no such user.
        InvalidInput: the password does not keep the rules.
    """
    actor.require_admin()
    user = None
    key = name_key(username)
    if USERNAME.fullmatch(key):
        user = await User.get_or_none(username_key=key)
    if user is None:
        raise NotFound(f"There is no user {shorten(username)!r}.", field="username")
    made_up = None if password else make_password()
    chosen = password or made_up or ""
    check_password_rules(chosen, username=user.username)
    hashed = await hash_password(chosen)
    async with transaction():
        await User.filter(id=user.id).update(password_hash=hashed)
        now = now_ms()
        sessions = Session.filter(user_id=user.id, revoked_at=None, expires_at__gt=now)
        ended = await sessions.update(revoked_at=now)
        revoked = 0 if keep_api_tokens else await api_tokens.revoke_all(user.id, now)
        await lockout.forgive_account(user)
        await audit.record(
            actor,
            "resetPassword",
            target=("User", user.id),
            details={"revoked_api_tokens": str(revoked)},
        )
        await bump(Topic.ACCESS)
    return PasswordReset(made_up, ended, revoked)


async def set_role(actor: Actor, user_id: uuid.UUID, role: Role) -> User:
    """Make a user an admin or not; admins only. What they have open keeps up within two seconds.

    Raises:
        NotFound: there is no such user.
        Conflict: nobody would be left to administer.
    """
    user = await _manage(actor, user_id)
    async with transaction():
        if role is not Role.ADMIN:
            await _keep_an_admin(user.id)
        await User.filter(id=user.id).update(role=role)
        await audit.record(actor, "setUserRole", target=("User", user.id), details={"role": role})
        await bump(Topic.ACCESS)
    user.role = role
    return user


async def disable_user(actor: Actor, user_id: uuid.UUID) -> User:
    """Shut a user out; admins only. Sessions and API tokens end for good, streams within 2 s.

    What is allocated to them stays until it ends or is released.

    Raises:
        NotFound: there is no such user.
        Conflict: it is oneself, or nobody would be left to administer.
    """
    user = await _manage(actor, user_id)
    if user.id == actor.user_id:
        raise Conflict("You cannot disable yourself; ask another admin.", field="id")
    now = now_ms()
    async with transaction():
        await _keep_an_admin(user.id)
        changed = await User.filter(id=user.id, disabled_at=None).update(disabled_at=now)
        await Session.filter(user_id=user.id, revoked_at=None).update(revoked_at=now)
        await api_tokens.revoke_all(user.id, now)
        await _record_account(actor, "disableUser", user, changed)
    return await User.get(id=user.id)


async def enable_user(actor: Actor, user_id: uuid.UUID) -> User:
    """Let a disabled user sign in again; admins only. Raises NotFound without such a user."""
    user = await _manage(actor, user_id)
    async with transaction():
        changed = await User.filter(id=user.id, disabled_at__not_isnull=True).update(
            disabled_at=None
        )
        await _record_account(actor, "enableUser", user, changed)
    return await User.get(id=user.id)


async def list_users(actor: Actor, request: PageRequest, *, text: str | None = None) -> Page[User]:
    """Users by name, of all or of those in whose name `text` is, in any case; admins only."""
    actor.require_admin()
    query = User.all()
    if text is not None:
        part = name_key(text)
        fits = storable(part, 255)
        query = query.filter(username_key__contains=part) if fits else query.filter(id__in=[])
    return await fetch_page(query, BY_NAME, request)


async def _manage(actor: Actor, user_id: uuid.UUID) -> User:
    actor.require_admin()
    user = await User.get_or_none(id=user_id)
    if user is None:
        raise NotFound("There is no such user.", field="id")
    return user


async def _keep_an_admin(user_id: uuid.UUID) -> None:
    """Locks the admins' rows, so that no two of them shut each other out at once."""
    admins = (
        User.filter(role=Role.ADMIN, disabled_at=None).order_by("id").select_for_update(no_key=True)
    )
    if {admin.id for admin in await admins} == {user_id}:
        raise Conflict("This is the last admin: make somebody else one first.", field="id")


async def _record_account(actor: Actor, action: str, user: User, changed: int) -> None:
    await audit.record(
        actor,
        action,
        target=("User", user.id),
        details={"username": user.username, "changed": audit.yes_or_no(changed)},
    )
    if changed:
        await bump(Topic.ACCESS)


async def visible_users(actor: Actor, ids: list[uuid.UUID]) -> dict[uuid.UUID, User]:
    """Of `ids`, the users that the caller may see: admins all, others themselves."""
    if not actor.is_admin:
        ids = [user_id for user_id in ids if user_id == actor.user_id]
    return {user.id: user for user in await User.filter(id__in=ids)} if ids else {}
