import uuid
from collections.abc import Awaitable
from typing import Any

import pytest
from tortoise.connection import get_connection

from remotegpu_core.actor import SYSTEM, Actor, ActorKind, Role, Scope, anonymous, machine_actor
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import EnrollmentRefused, InvalidCredentials, Unauthenticated
from remotegpu_core.models import AuditEvent, Outcome, WorkspaceRole
from remotegpu_core.paging import PageRequest
from remotegpu_core.services import audit
from remotegpu_core.services.api_tokens import create_api_token, revoke_api_token
from remotegpu_core.services.audit import AuditFilter, list_events, record, visible_events
from remotegpu_core.services.enrollments import create_enrollment, redeem, revoke_enrollment
from remotegpu_core.services.grants import grant_machine, revoke_machine_grant
from remotegpu_core.services.sign_in import authenticate, sign_in, sign_out
from remotegpu_core.services.users import (
    change_password,
    create_user,
    ensure_admin,
    reset_password,
)
from remotegpu_core.services.workspaces import create_workspace, remove_member, set_member
from remotegpu_core.settings import Settings
from tests.core.hosts import enroll, make_machine
from tests.core.people import make_tenant, make_user

pytestmark = pytest.mark.usefixtures("database")

SOURCE = "192.0.2.77"


async def actions(actor: Actor, **chosen: Any) -> list[str]:
    page = await list_events(actor, PageRequest(first=100), AuditFilter(**chosen))
    assert await page.count() == len(page.rows)
    return [event.action for event in page.rows]


async def event_of(change: Awaitable[Any]) -> AuditEvent:
    """The one event that a change leaves."""
    known = {event.id for event in await AuditEvent.all()}
    await change
    (event,) = [event for event in await AuditEvent.all() if event.id not in known]
    return event


async def test_every_change_leaves_one_event(admin: Actor, settings: Settings) -> None:
    machine, user = await make_machine("node-a"), await make_user("bob")
    workspace = await create_workspace(admin, "lab")
    _, row = await create_api_token(admin, "ci", frozenset({Scope.READ}), None)
    _, enrollment = await create_enrollment(admin, settings, machine_name="node-b")
    redeemable, _ = await create_enrollment(admin, settings, machine_name="node-c")
    to_user = {"user_id": user.id, "workspace_id": None}
    changes: list[tuple[str, str, Awaitable[Any]]] = [
        ("createUser", "User", create_user(admin, "eve", "right-Passw0rd", Role.USER)),
        ("resetPassword", "User", reset_password(admin, "eve", "other-Passw0rd")),
        ("createWorkspace", "Workspace", create_workspace(admin, "another")),
        (
            "setWorkspaceMember",
            "Workspace",
            set_member(admin, workspace.id, user.id, WorkspaceRole.MEMBER),
        ),
        ("removeWorkspaceMember", "Workspace", remove_member(admin, workspace.id, user.id)),
        ("grantMachine", "Machine", grant_machine(admin, machine.id, **to_user)),
        ("grantMachine", "Machine", grant_machine(admin, machine.id, **to_user)),
        ("revokeMachineGrant", "Machine", revoke_machine_grant(admin, machine.id, **to_user)),
        (
            "createApiToken",
            "ApiToken",
            create_api_token(admin, "more", frozenset({Scope.READ}), None),
        ),
        ("revokeApiToken", "ApiToken", revoke_api_token(admin, row.id)),
        ("revokeApiToken", "ApiToken", revoke_api_token(admin, row.id)),
        (
            "createEnrollment",
            "Enrollment",
            create_enrollment(admin, settings, machine_name="node-d"),
        ),
        ("revokeEnrollment", "Enrollment", revoke_enrollment(admin, enrollment.id)),
    ]
    for action, target, change in changes:
        event = await event_of(change)
        assert (event.action, event.target_type) == (action, target)
        assert event.target_id is not None
        assert (event.outcome, event.actor_kind) == (Outcome.SUCCEEDED, ActorKind.USER)
        assert (event.actor_id, event.user_id) == (admin.id, admin.user_id)
        assert event.source_address == "192.0.2.1"
        assert abs(event.at - now_ms()) < 60_000

    event = await event_of(redeem(enroll(redeemable), source_address=SOURCE))
    assert (event.action, event.actor_kind) == ("redeemEnrollment", ActorKind.MACHINE)
    assert (event.actor_id, event.source_address) == (event.target_id, SOURCE)


async def test_signing_in_and_out_and_a_new_password(admin: Actor, settings: Settings) -> None:
    await create_user(admin, "eve", "right-Passw0rd", Role.USER)
    event = await event_of(sign_in(settings, "eve", "right-Passw0rd", source_address=SOURCE))
    assert (event.action, event.outcome, event.source_address) == (
        "signIn",
        Outcome.SUCCEEDED,
        SOURCE,
    )
    signed_in = await sign_in(settings, "eve", "right-Passw0rd", source_address=SOURCE)
    event = await event_of(change_password(signed_in.actor, "right-Passw0rd", "other-Passw0rd"))
    assert (event.action, event.user_id) == ("changePassword", signed_in.user.id)
    event = await event_of(sign_out(signed_in.actor))
    assert (event.action, event.user_id) == ("signOut", signed_in.user.id)


async def test_the_first_admin_is_an_event_of_the_systems() -> None:
    event = await event_of(ensure_admin("right-Passw0rd"))
    assert (event.action, event.actor_kind) == ("createUser", ActorKind.SYSTEM)
    assert (event.actor_id, event.user_id) == (None, None)


async def test_users_see_what_they_did_themselves_or_through_a_token(admin: Actor) -> None:
    alice, bob = await make_tenant(), await make_tenant()
    token, row = await create_api_token(alice, "ci", frozenset(Scope) - {Scope.ADMIN}, None)
    program = await authenticate(token)
    await revoke_api_token(program, row.id)
    await create_workspace(admin, "lab")
    await record(machine_actor(uuid.uuid4()), "redeemEnrollment")

    assert await actions(alice) == ["revokeApiToken", "createApiToken"]
    assert await actions(program) == ["revokeApiToken", "createApiToken"]
    assert await actions(bob) == []
    assert len(await actions(admin)) == 4
    with pytest.raises(Unauthenticated):
        await actions(anonymous())

    ids = [event.id for event in await AuditEvent.all()]
    assert len(await visible_events(alice, ids)) == 2
    assert await visible_events(bob, ids) == {}
    assert await visible_events(anonymous(), ids) == {}
    assert len(await visible_events(admin, ids)) == 4
    # Asking for somebody else's shows none of theirs.
    assert await actions(bob, user_id=alice.user_id) == []


async def test_filters(admin: Actor) -> None:
    alice = await make_tenant()
    machine = ("Machine", uuid.uuid4())
    await record(alice, "one", target=machine)
    await record(admin, "two", target=machine, outcome=Outcome.DENIED)
    await record(SYSTEM, "three")
    for number, name in enumerate(("one", "two", "three")):
        await AuditEvent.filter(action=name).update(at=number)

    assert await actions(admin) == ["three", "two", "one"]
    assert await actions(admin, user_id=alice.user_id) == ["one"]
    assert await actions(admin, action="two") == ["two"]
    assert await actions(admin, target_id=machine[1]) == ["two", "one"]
    assert await actions(admin, outcome=Outcome.DENIED) == ["two"]
    assert await actions(admin, since=1) == ["three", "two"]
    assert await actions(admin, until=1) == ["one"]
    assert await actions(admin, since=1, until=2) == ["two"]
    assert await actions(admin, action="one", outcome=Outcome.DENIED) == []
    for nothing in ("x\x00", "\ud800", "x" * 1000):
        assert await actions(admin, action=nothing) == []


async def test_events_at_the_same_moment_keep_their_order(admin: Actor) -> None:
    for number in range(50):
        await record(admin, f"action{number}")
    assert await actions(admin) == [f"action{number}" for number in reversed(range(50))]


async def test_details_hold_any_text(admin: Actor) -> None:
    await record(admin, "odd", details={"text": "a\x00b\ud800\nc" + "x" * 1000})
    details = (await AuditEvent.get()).details
    assert details["text"].startswith("a b\ufffd c")
    assert len(details["text"]) == 255


async def test_old_events_go(admin: Actor) -> None:
    for number in range(4):
        await record(admin, f"action{number}")
        await AuditEvent.filter(action=f"action{number}").update(at=number)
    assert await audit.prune(2) == 2
    assert await actions(admin) == ["action3", "action2"]


async def dump() -> str:
    """Every row of every table as one text."""
    client = get_connection("default")
    tables = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
        "postgres": "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'",
    }[client.capabilities.dialect]
    rows = [
        str(await client.execute_query_dict(f'SELECT * FROM "{table["name"]}"'))  # noqa: S608 - the database's own names
        for table in await client.execute_query_dict(tables)
    ]
    return "\n".join(rows)


async def test_no_secret_is_in_any_table(settings: Settings) -> None:
    """Plant secrets through every door, then look everywhere."""
    secrets = [f"planted-{number}-S3cret" for number in range(6)]
    await ensure_admin(secrets[0])
    admin = (await sign_in(settings, "admin", secrets[0], source_address=SOURCE)).actor
    await create_user(admin, "eve", secrets[1], Role.USER)
    eve = await sign_in(settings, "eve", secrets[1], source_address=SOURCE)
    await change_password(eve.actor, secrets[1], secrets[2])
    await reset_password(admin, "eve", secrets[3])
    made_up = (await reset_password(admin, "eve", None)).password
    assert made_up is not None
    # A password in the wrong field, and a wrong one in the right field.
    for name, password in ((secrets[4], "x"), ("eve", secrets[5])):
        with pytest.raises(InvalidCredentials):
            await sign_in(settings, name, password, source_address=SOURCE)
    token, _ = await create_api_token(admin, "ci", frozenset({Scope.READ}), None)
    await authenticate(token)
    enrollment, _ = await create_enrollment(admin, settings, machine_name="node-a")
    await redeem(enroll(enrollment), source_address=SOURCE)
    with pytest.raises(EnrollmentRefused):
        await redeem(enroll(enrollment, key="thief"), source_address=SOURCE)
    secrets += [made_up, token, enrollment, eve.token]

    everything = await dump()
    assert "admin" in everything
    assert "node-a" in everything
    lower = everything.lower()
    for secret in secrets:
        body = secret.split("_", 1)[-1]
        assert body.lower() not in lower
