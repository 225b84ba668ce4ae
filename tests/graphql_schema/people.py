"""Users with sessions and API tokens, made straight in the database: hashing takes time."""

import base64
import itertools
import secrets
from collections.abc import Collection
from functools import cache

from argon2 import PasswordHasher

from remotegpu_core.actor import SYSTEM, Actor, Role, Scope
from remotegpu_core.clock import now_ms
from remotegpu_core.models import ApiToken, Membership, Session, User, Workspace, WorkspaceRole
from remotegpu_core.secret import Kind, new_secret, secret_hash
from remotegpu_core.services.sign_in import authenticate
from remotegpu_core.services.workspaces import create_workspace, set_member

#: Of the first user, `admin`.
ADMIN_PASSWORD = "the-first-Passw0rd"
#: Of everybody else.
PASSWORD = "correct-horse-9"
HOUR = 3_600_000
SOURCE = "192.0.2.1"

_numbers = itertools.count(1)


@cache
def _password_hash() -> str:
    # As weak as it may be: many tests sign nobody in, and none is about its strength.
    return PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)


async def make_user(name: str | None = None, *, role: Role = Role.USER) -> User:
    name = name or f"person{next(_numbers)}"
    return await User.create(
        username=name,
        username_key=name.lower(),
        password_hash=_password_hash(),
        role=role,
        created_at=now_ms(),
    )


async def session_token(user: User) -> str:
    """The token of a new session."""
    token, now = new_secret(Kind.SESSION), now_ms()
    await Session.create(
        user=user, token_hash=secret_hash(token), created_at=now, expires_at=now + HOUR
    )
    return token


async def api_token(user: User, *scopes: Scope, name: str = "program") -> tuple[str, ApiToken]:
    """A new API token's secret, and its row."""
    token = new_secret(Kind.API_TOKEN)
    row = await ApiToken.create(
        user=user,
        name=name,
        token_hash=secret_hash(token),
        scopes=sorted(scopes),
        created_at=now_ms(),
    )
    return token, row


async def actor_of(token: str) -> Actor:
    return await authenticate(token, source_address=SOURCE)


async def as_user(user: User | None = None, *, role: Role = Role.USER) -> Actor:
    """`user`, or a new one, through a session."""
    return await actor_of(await session_token(user or await make_user(role=role)))


async def as_admin() -> Actor:
    return await as_user(role=Role.ADMIN)


async def make_workspace(*members: User, name: str | None = None) -> Workspace:
    workspace = await create_workspace(SYSTEM, name or f"workspace{next(_numbers)}")
    for member in members:
        await set_member(SYSTEM, workspace.id, member.id, WorkspaceRole.MEMBER)
    return workspace


async def members_of(workspace: Workspace) -> Collection[Membership]:
    return await Membership.filter(workspace_id=workspace.id)


def make_key_line() -> str:
    """A new public key, as `authorized_keys` takes it."""
    packed = b"".join(
        len(field).to_bytes(4, "big") + field for field in (b"ssh-ed25519", secrets.token_bytes(32))
    )
    return f"ssh-ed25519 {base64.b64encode(packed).decode()}"
