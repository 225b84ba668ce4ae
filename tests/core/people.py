"""Users and their credentials, made straight in the database: hashing a password takes time."""

import itertools

from remotegpu_core.actor import Actor, Role
from remotegpu_core.clock import now_ms
from remotegpu_core.models import Session, User
from remotegpu_core.secret import Kind, new_secret, secret_hash
from remotegpu_core.services.sign_in import authenticate

HOUR = 3_600_000

_numbers = itertools.count(1)


async def make_user(name: str | None = None, *, role: Role = Role.USER) -> User:
    """A user that nobody can sign in as; `make_actor` gives them a session."""
    name = name or f"user{next(_numbers)}"
    return await User.create(
        username=name,
        username_key=name.lower(),
        password_hash="none",
        role=role,
        created_at=now_ms(),
    )


async def make_actor(user: User) -> Actor:
    """`user` through a new session."""
    token = new_secret(Kind.SESSION)
    now = now_ms()
    await Session.create(
        user=user, token_hash=secret_hash(token), created_at=now, expires_at=now + HOUR
    )
    return await authenticate(token, source_address="192.0.2.1")


async def make_admin() -> Actor:
    return await make_actor(await make_user(role=Role.ADMIN))


async def make_tenant() -> Actor:
    return await make_actor(await make_user())
