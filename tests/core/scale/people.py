"""Rows of users, and of what hangs on them."""

from remotegpu_core.models import ApiToken, Membership, Session, SshKey, User, Workspace
from tests.core.scale.sql import HOUR, Rows


async def write_people(rows: Rows) -> None:
    users = rows.size.users
    await rows.insert(
        User,
        users,
        id=rows.id("User"),
        username=rows.name("user"),
        username_key=rows.name("user"),
        password_hash="'none'",
        role="'USER'",
    )
    for model, extra in (
        (Session, {"expires_at": str(rows.now + HOUR)}),
        (ApiToken, {"name": "'ci'", "scopes": rows.json(["READ"])}),
        (
            SshKey,
            {
                "name": "'laptop'",
                "algorithm": "'ssh-ed25519'",
                "fingerprint": rows.name("SHA256:"),
                "line": rows.name("ssh-ed25519 "),
                "comment": "''",
            },
        ),
    ):
        hashed = {} if model is SshKey else {"token_hash": rows.name(f"{model.__name__}-")}
        owner = {"id": rows.id(model.__name__), "user_id": rows.id("User")}
        await rows.insert(model, users, **owner, **hashed, **extra)
    await rows.insert(
        Workspace,
        users // 10,
        id=rows.id("Workspace"),
        name=rows.name("lab"),
        name_key=rows.name("lab"),
    )
    await rows.insert(
        Membership,
        users,
        id=rows.id("Membership"),
        user_id=rows.id("User"),
        workspace_id=rows.id("Workspace", f"n % {users // 10}"),
        role="'MEMBER'",
    )
