import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE

import pytest

from remotegpu_core.actor import SYSTEM, Role
from remotegpu_core.clock import now_ms
from remotegpu_core.database.connection import Database
from remotegpu_core.errors import InvalidCredentials, LockedOut, RemoteGPUError
from remotegpu_core.models import SignInFailure, User
from remotegpu_core.passwords import hash_password, verify_password
from remotegpu_core.services import freeze, lockout, sign_in, users
from remotegpu_core.services.sign_in import SignedIn
from remotegpu_core.settings import Settings
from tests.core.clocks import HandClock
from tests.core.people import make_actor

pytestmark = pytest.mark.usefixtures("database")

RIGHT = "right-Passw0rd"
WRONG = "wrong-Passw0rd"
HERE, THERE = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    hand = HandClock(now_ms())
    monkeypatch.setattr(lockout, "now_ms", hand)
    return hand


@pytest.fixture
async def alice(database: Database) -> User:
    return await add_user("alice")


async def add_user(name: str) -> User:
    return await User.create(
        username=name,
        username_key=name,
        password_hash=await hash_password(RIGHT),
        role=Role.USER,
        created_at=now_ms(),
    )


async def attempt(
    settings: Settings,
    password: str,
    *,
    name: str = "alice",
    source: str | None = HERE,
    device: str | None = None,
) -> SignedIn | RemoteGPUError:
    try:
        return await sign_in.sign_in(
            settings, name, password, source_address=source, device_token=device
        )
    except RemoteGPUError as error:
        return error


async def fail(settings: Settings, times: int, *, name: str = "alice", source: str = HERE) -> None:
    for _ in range(times):
        error = await attempt(settings, WRONG, name=name, source=source)
        assert isinstance(error, InvalidCredentials)


@pytest.mark.usefixtures("alice")
async def test_five_failures_lock_even_the_right_password_out(
    settings: Settings, clock: HandClock
) -> None:
    await fail(settings, 5)
    for password in (RIGHT, WRONG):
        error = await attempt(settings, password)
        assert isinstance(error, LockedOut)
        assert "15 minutes" in error.message
        assert password not in error.message

    clock.advance(lockout.LOCK - 1)
    assert isinstance(await attempt(settings, RIGHT), LockedOut)
    clock.advance(1)
    assert isinstance(await attempt(settings, RIGHT), SignedIn)


@pytest.mark.usefixtures("alice")
async def test_knocking_on_a_locked_door_keeps_it_locked_no_longer(
    settings: Settings, clock: HandClock
) -> None:
    await fail(settings, 5)
    for _ in range(3):
        clock.advance(lockout.LOCK // 4)
        assert isinstance(await attempt(settings, WRONG), LockedOut)
    clock.advance(lockout.LOCK // 4)
    await fail(settings, 1)


@pytest.mark.usefixtures("alice")
async def test_four_failures_and_a_right_one_begin_anew(settings: Settings) -> None:
    for _ in range(3):
        await fail(settings, 4)
        assert isinstance(await attempt(settings, RIGHT), SignedIn)
    assert await SignInFailure.all().count() == 0


@pytest.mark.usefixtures("alice")
async def test_old_failures_are_forgotten(settings: Settings, clock: HandClock) -> None:
    await fail(settings, 4)
    clock.advance(lockout.LOCK)
    await fail(settings, 4)
    assert isinstance(await attempt(settings, RIGHT), SignedIn)


@pytest.mark.usefixtures("alice")
async def test_a_name_is_one_name_however_it_is_written(settings: Settings) -> None:
    for name in ("alice", "Alice", " alice", "ALICE ", "aLice"):
        await fail(settings, 1, name=name)
    assert isinstance(await attempt(settings, RIGHT), LockedOut)


@pytest.mark.usefixtures("alice")
async def test_names_that_are_not_there_lock_too(settings: Settings) -> None:
    await fail(settings, 5, name="nobody")
    assert isinstance(await attempt(settings, WRONG, name="nobody"), LockedOut)
    assert isinstance(await attempt(settings, RIGHT), SignedIn)


@pytest.mark.usefixtures("alice")
async def test_a_hundred_at_once_get_five_tries(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = 0
    verify = verify_password

    async def counting(password: str, stored: str | None) -> bool:
        nonlocal verified
        verified += 1
        return await verify(password, stored)

    monkeypatch.setattr(sign_in, "verify_password", counting)
    outcomes = await asyncio.gather(*(attempt(settings, WRONG) for _ in range(100)))
    assert verified == 5
    assert sum(isinstance(outcome, LockedOut) for outcome in outcomes) == 95
    assert isinstance(await attempt(settings, RIGHT), LockedOut)

    # The 95 were not looked at, so they lock nothing else.
    assert isinstance(await attempt(settings, RIGHT, source=THERE), SignedIn)
    await add_user("bob")
    assert isinstance(await attempt(settings, RIGHT, name="bob"), SignedIn)


async def count(name: str, source: str, times: int) -> None:
    for _ in range(times):
        await lockout.count(lockout.by_stranger(name, source))


async def test_a_source_that_guesses_through_many_names_is_locked_for_all() -> None:
    for number in range(lockout.NETWORK_LIMIT // 2):
        await count(f"user{number}", HERE, 2)
    with pytest.raises(LockedOut):
        await lockout.count(lockout.by_stranger("alice", HERE))
    await lockout.count(lockout.by_stranger("alice", THERE))


async def test_an_account_of_ones_own_forgives_no_guesses_at_others() -> None:
    for number in range(lockout.NETWORK_LIMIT):
        await lockout.count(lockout.by_stranger(f"user{number}", HERE))
        if number % 5 == 0:
            await lockout.count(lockout.by_stranger("mallory", HERE))
            await lockout.forgive(lockout.by_stranger("mallory", HERE))
    with pytest.raises(LockedOut):
        await lockout.count(lockout.by_stranger("alice", HERE))


async def test_an_account_that_many_sources_guess_at_is_locked_for_all() -> None:
    for number in range(lockout.ACCOUNT_LIMIT // 4):
        await count("alice", f"198.51.100.{number}", 4)
    with pytest.raises(LockedOut):
        await lockout.count(lockout.by_stranger("alice", HERE))
    await lockout.count(lockout.by_stranger("bob", HERE))


async def test_an_administrator_lets_an_account_in_from_everywhere(alice: User) -> None:
    await count("alice", HERE, lockout.PAIR_LIMIT)
    await count("alice", THERE, lockout.PAIR_LIMIT)
    await count("alice-2", HERE, lockout.PAIR_LIMIT)
    await lockout.forgive_account(alice)
    await lockout.count(lockout.by_stranger("alice", HERE))
    await lockout.count(lockout.by_stranger("alice", THERE))
    with pytest.raises(LockedOut):
        await lockout.count(lockout.by_stranger("alice-2", HERE))


async def test_forgiving_and_counting_at_once_disturb_one_another_in_nothing() -> None:
    async def right() -> None:
        await lockout.count(lockout.by_stranger("alice", HERE))
        await lockout.forgive(lockout.by_stranger("alice", HERE))

    for _ in range(5):
        # Two of a pair at a time: five would lock.
        await asyncio.gather(*(right() for _ in range(4)))
    assert await SignInFailure.all().count() == 0


@pytest.mark.usefixtures("alice")
async def test_a_network_of_ipv6_is_one_source(settings: Settings) -> None:
    for host in range(5):
        await fail(settings, 1, source=f"2001:db8::{host}:1")
    assert isinstance(await attempt(settings, RIGHT, source="2001:db8::ffff"), LockedOut)
    assert isinstance(await attempt(settings, RIGHT, source="2001:db8:0:1::1"), SignedIn)


async def everybody_guesses(name: str = "alice") -> None:
    """The account is locked for whoever it does not know."""
    for network in range(lockout.ACCOUNT_LIMIT // 4):
        await count(name, f"198.51.100.{network}", 4)
    with pytest.raises(LockedOut):
        await lockout.count(lockout.by_stranger(name, "203.0.113.1"))


@pytest.mark.usefixtures("alice")
async def test_strangers_lock_no_device_out_that_is_known(settings: Settings) -> None:
    known = await attempt(settings, RIGHT)
    assert isinstance(known, SignedIn)
    await everybody_guesses()
    # Elsewhere now, where somebody guesses at this account and many others.
    for number in range(lockout.NETWORK_LIMIT):
        await count(f"user{number}", THERE, 1)
    assert isinstance(await attempt(settings, RIGHT, source=THERE), LockedOut)
    again = await attempt(settings, RIGHT, source=THERE, device=known.device_token)
    assert isinstance(again, SignedIn)
    # The device itself gets no more tries than others.
    for _ in range(lockout.PAIR_LIMIT):
        error = await attempt(settings, WRONG, source=THERE, device=again.device_token)
        assert isinstance(error, InvalidCredentials)
    for password in (WRONG, RIGHT):
        error = await attempt(settings, password, source=HERE, device=again.device_token)
        assert isinstance(error, LockedOut)


@pytest.mark.usefixtures("alice")
async def test_strangers_lock_no_network_out_that_is_known(
    settings: Settings, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_in, "now_ms", clock)
    assert isinstance(await attempt(settings, RIGHT, source="2001:db8::1"), SignedIn)
    assert isinstance(await attempt(settings, RIGHT, source=None), SignedIn)
    await everybody_guesses()
    assert isinstance(await attempt(settings, RIGHT, source="2001:db8::2"), SignedIn)
    # Callers whose address is not known are in no network, and others are strangers.
    for source in (None, THERE):
        assert isinstance(await attempt(settings, RIGHT, source=source), LockedOut)
    clock.advance(sign_in._KNOWN_FOR)
    await everybody_guesses()
    assert isinstance(await attempt(settings, RIGHT, source="2001:db8::2"), LockedOut)


async def test_a_device_is_known_to_its_own_account_until_the_password_changes(
    settings: Settings, alice: User
) -> None:
    await add_user("mallory")
    tokens = {}
    for name in ("alice", "mallory"):
        signed_in = await attempt(settings, RIGHT, name=name)
        assert isinstance(signed_in, SignedIn)
        tokens[name] = signed_in.device_token
    await everybody_guesses()
    cut = tokens["alice"].partition(".")[0]
    for bad in (tokens["mallory"], cut, f"{cut}.", f"{cut}.{'0' * 40}", "rgd_\ud800.x", "x" * 999):
        assert isinstance(await attempt(settings, RIGHT, source=THERE, device=bad), LockedOut), bad
    await users.reset_password(SYSTEM, "alice", "other-Passw0rd")
    await everybody_guesses()
    error = await attempt(settings, "other-Passw0rd", source=THERE, device=tokens["alice"])
    assert isinstance(error, LockedOut)


@pytest.mark.usefixtures("alice")
async def test_guesses_over_rotating_networks_have_an_end(settings: Settings) -> None:
    checked = 0
    for number in range(2 * lockout.ACCOUNT_LIMIT):
        with contextlib.suppress(LockedOut):
            await lockout.count(lockout.by_stranger("alice", f"2001:db8:0:{number:x}::"))
            checked += 1
    assert checked == lockout.ACCOUNT_LIMIT


async def test_a_holder_of_a_session_guesses_no_longer_than_others(
    settings: Settings, alice: User
) -> None:
    await everybody_guesses()
    thief = (await make_actor(alice)).at(THERE)
    for number in range(lockout.PAIR_LIMIT):
        with pytest.raises(InvalidCredentials):
            await users.change_password(thief.at(f"192.0.2.{number}"), WRONG, "other-Passw0rd")
    with pytest.raises(LockedOut) as caught:
        await users.change_password(thief, RIGHT, "other-Passw0rd")
    assert caught.value.field == ["currentPassword"]
    await users.reset_password(SYSTEM, "alice", RIGHT)
    again = await make_actor(await User.get(id=alice.id))
    await users.change_password(again, RIGHT, "other-Passw0rd")


async def test_what_nobody_remembers_is_pruned(clock: HandClock) -> None:
    await count("alice", HERE, 2)
    clock.advance(lockout.LOCK)
    await count("bob", THERE, 1)
    clock.advance(1)
    await lockout.prune()
    kept = [row.key for row in await SignInFailure.all()]
    assert len(kept) == 3
    assert not any(HERE in key for key in kept)


COUNT = """
import asyncio, sys
from remotegpu_core.database.connection import Database
from remotegpu_core.errors import LockedOut
from remotegpu_core.services import lockout
from remotegpu_core.settings import load_settings

async def main():
    database = Database(load_settings(data_dir=sys.argv[1], database_url=sys.argv[2] or None))
    await database.open()
    print("ready", flush=True)
    sys.stdin.readline()
    counted = 0
    try:
        for _ in range(5):
            try:
                await lockout.count(lockout.by_stranger("alice", "192.0.2.1"))
            except LockedOut:
                break
            counted += 1
    finally:
        await database.close()
    print(counted)

asyncio.run(main())
"""


async def test_processes_count_together(settings: Settings) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", COUNT, str(settings.data_dir), settings.database_url or ""),
            stdin=PIPE,
            stdout=PIPE,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    assert sum(int(output) for output, _ in outputs) == lockout.PAIR_LIMIT
    with pytest.raises(LockedOut):
        await lockout.count(lockout.by_stranger("alice", HERE))


async def test_a_doubted_clock_forgets_no_failures(
    settings: Settings, alice: User, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that starts a day ahead counts the time since its start, until its clock is right."""
    for _ in range(lockout.PAIR_LIMIT):
        assert isinstance(await attempt(settings, WRONG), InvalidCredentials)
    passed = 60_000
    monkeypatch.setattr(lockout, "_running_for", lambda: passed)
    doubt = await freeze.begin_for_clock("The clock is a day ahead.")
    clock.advance(86_400_000)
    await lockout.prune()
    locked = await attempt(settings, RIGHT)
    assert isinstance(locked, LockedOut)
    assert "in 14 minutes" in locked.message
    passed = lockout.LOCK
    assert isinstance(await attempt(settings, RIGHT), SignedIn)
    for _ in range(lockout.PAIR_LIMIT):
        await attempt(settings, WRONG)
    clock.advance(86_400_000)
    passed = 0
    assert isinstance(await attempt(settings, RIGHT), LockedOut)
    await freeze.thaw(doubt)
    assert isinstance(await attempt(settings, RIGHT), SignedIn)
