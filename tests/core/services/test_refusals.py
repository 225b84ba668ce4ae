"""What strangers are refused is summed up; what users are refused is written one by one."""

import pytest

from remotegpu_core.actor import Actor, anonymous
from remotegpu_core.database.connection import Database
from remotegpu_core.errors import Forbidden, LockedOut, RemoteGPUError, Unauthenticated
from remotegpu_core.models import AuditEvent, Outcome, User
from remotegpu_core.services.refusals import MAX_EVENTS, VARIOUS, WINDOW, Refusals
from tests.core.clocks import HandClock
from tests.core.people import make_tenant, make_user

pytestmark = pytest.mark.usefixtures("database")

HERE = anonymous("192.0.2.1")


async def told() -> list[tuple[str, str | None, str, str]]:
    rows = await AuditEvent.all().order_by("id")
    return [
        (row.action, row.source_address, row.details["code"], row.details.get("count", "-"))
        for row in rows
    ]


async def refuse(
    refusals: Refusals, actor: Actor, times: int = 1, error: RemoteGPUError | None = None
) -> None:
    for _ in range(times):
        await refusals.record(actor, "createUser", error or Unauthenticated("Sign in first."))


async def test_one_event_a_minute_for_a_network_and_what_it_tried() -> None:
    clock = HandClock(0)
    refusals = Refusals(clock)
    await refuse(refusals, HERE, 15)
    assert await told() == []
    await refusals.flush()
    assert await told() == [("createUser", "192.0.2.1", "UNAUTHENTICATED", "15")]
    # Others of that minute are added to it; another reason and another network are other events.
    await refuse(refusals, HERE, 5)
    await refuse(refusals, HERE, 1, Forbidden("No."))
    await refuse(refusals, anonymous("2001:db8::1"))
    await refuse(refusals, anonymous("2001:db8::2"))
    await refusals.flush()
    await refusals.flush()
    assert await told() == [
        ("createUser", "192.0.2.1", "UNAUTHENTICATED", "20"),
        ("createUser", "192.0.2.1", "FORBIDDEN", "1"),
        ("createUser", "2001:db8::1", "UNAUTHENTICATED", "2"),
    ]
    clock.advance(WINDOW)
    await refuse(refusals, HERE, 2)
    clock.advance(WINDOW)
    await refusals.flush()
    assert (await told())[3:] == [("createUser", "192.0.2.1", "UNAUTHENTICATED", "2")]
    assert refusals.summed_up == 25


async def test_however_many_networks_there_are() -> None:
    refusals = Refusals(HandClock(0))
    for number in range(10 * MAX_EVENTS):
        await refuse(refusals, anonymous(f"2001:db8:0:{number:x}::1"))
    await refusals.flush()
    found = await told()
    assert len(found) == MAX_EVENTS + 1
    assert found[-1] == ("createUser", VARIOUS, "UNAUTHENTICATED", str(9 * MAX_EVENTS))


async def test_the_account_is_named() -> None:
    alice = await make_user("alice")
    refusals = Refusals()
    error = LockedOut("Wait.")
    error.target = ("User", alice.id)
    await refuse(refusals, HERE, 1, error)
    await refusals.flush()
    event = await AuditEvent.get()
    assert (event.outcome, event.target_type, event.target_id) == (Outcome.DENIED, "User", alice.id)


async def test_users_are_told_one_by_one() -> None:
    refusals, tenant = Refusals(), await make_tenant()
    await refuse(refusals, tenant, 2, Forbidden("No."))
    assert len(await told()) == 2
    assert {row.user_id for row in await AuditEvent.all()} == {tenant.user_id}


async def test_nothing_is_lost_while_the_database_is_away(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = Refusals(HandClock(0))
    await refuse(refusals, HERE, 3)
    with monkeypatch.context() as away:

        async def gone(*_: object, **__: object) -> None:
            raise ConnectionError("gone")

        away.setattr(AuditEvent, "create", gone)
        await refusals.flush()
    await refusals.flush()
    assert [count for *_, count in await told()] == ["3"]
    assert await User.all().count() == 0
