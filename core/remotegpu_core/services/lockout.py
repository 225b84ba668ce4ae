"""Counting failed sign-ins, in the database so that every replica counts together.

An attempt is counted before the password is checked and forgiven when it was right: a hundred at
once get no more tries than a hundred in a row.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from remotegpu_core.clock import CLOCK, credible, now_ms
from remotegpu_core.database.transactions import transaction
from remotegpu_core.errors import LockedOut
from remotegpu_core.models import SignInFailure, User
from remotegpu_core.secret import secret_hash
from remotegpu_core.services.freeze import is_clock_doubted

#: Milliseconds that a lock holds, and that failures are remembered.
LOCK = 15 * 60 * 1000

#: Failures that lock a user name for one network; a network altogether (guessing through many
#: names); a name altogether (guessing from many networks).
PAIR_LIMIT = 5
NETWORK_LIMIT = 50
ACCOUNT_LIMIT = 100

#: When this process started, by a clock that cannot be set.
_STARTED: Final = CLOCK.elapsed()


@dataclass(frozen=True, slots=True)
class Attempt:
    """Keys that a failure counts for, each with its limit. The first is of this caller alone."""

    keys: tuple[tuple[str, int], ...]


def by_stranger(username_key: str, network: str) -> Attempt:
    """An attempt from a network (`networks.caller_network`) that the account is not known from."""
    return Attempt(
        (
            *by_known_network(username_key, network).keys,
            (f"account {_hidden(username_key)}", ACCOUNT_LIMIT),
        )
    )


def by_known_network(username_key: str, network: str) -> Attempt:
    """An attempt from a network that the account signed in from lately: others' guesses at the
    account do not lock it there."""
    return Attempt(
        (
            (f"pair {_hidden(username_key)} {network}", PAIR_LIMIT),
            (f"network {network}", NETWORK_LIMIT),
        )
    )


def by_device(device: str) -> Attempt:
    """An attempt on a device that the account signed in on (`devices.device_of`), wherever it is
    now: neither others' guesses at the account nor those of its network lock it."""
    return Attempt(((f"device {_hidden(device)}", PAIR_LIMIT),))


def by_holder(user_id: UUID) -> Attempt:
    """An attempt by a caller who is signed in: strangers cannot lock it, and a thief of a session
    does not guess on from many networks."""
    return Attempt(((f"holder {user_id}", PAIR_LIMIT),))


def _hidden(text: str) -> str:
    """What stands for a name: some people type their password where the name belongs."""
    return secret_hash(text)[:32]


async def count(attempt: Attempt, *, field: str = "username") -> None:
    """Count an attempt that is about to be checked.

    Raises:
        LockedOut: there were too many; the password is not to be looked at.
    """
    now = now_ms()
    async with transaction():
        wait, failures = 0, []
        for key, limit in attempt.keys:
            failure = await _locked_row(key, now)
            age = now - failure.last_at
            if age >= LOCK and failure.count and await is_clock_doubted():
                age = min(age, _running_for())
            if age >= LOCK:
                failure.count = 0
            if failure.count >= limit:
                wait = max(wait, LOCK - age)
            failures.append(failure)
        if wait:
            # Nothing is written: an attempt that is not checked counts towards no other lock, or
            # one address could lock an account for all by knocking on its own locked door.
            raise LockedOut(
                f"Too many failed sign-ins. Try again in {-(-wait // 60_000)} minutes, or where "
                "you signed in before: a browser or network that is known is not locked by "
                "others. An administrator can set a new password with `remotegpu user "
                "reset-password`.",
                field=field,
            )
        for failure in failures:
            failure.count += 1
            failure.last_at = now
            await failure.save()


async def forgive(attempt: Attempt) -> None:
    """The password was right: what this caller tried does not count.

    What was tried from its network with other names goes on counting: somebody with an account of
    their own could guess at others' passwords without end otherwise.
    """
    (own, _), *others = attempt.keys
    async with transaction():
        tried = await SignInFailure.filter(key=own).select_for_update().get_or_none()
        if tried is None:
            return
        await tried.delete()
        for key, _ in others:
            failure = await SignInFailure.filter(key=key).select_for_update().get_or_none()
            if failure is not None and failure.count > tried.count:
                await SignInFailure.filter(key=key).update(count=failure.count - tried.count)
            elif failure is not None:
                await failure.delete()


async def forgive_account(user: User) -> None:
    """An administrator set a new password: let the user in from everywhere."""
    name = _hidden(user.username_key)
    await SignInFailure.filter(key__startswith=f"pair {name} ").delete()
    await SignInFailure.filter(key__in=[f"account {name}", f"holder {user.id}"]).delete()


async def prune() -> None:
    if await is_clock_doubted():
        return
    await SignInFailure.filter(last_at__lt=now_ms() - LOCK).delete()


def _running_for() -> int:
    """Milliseconds that have passed for certain, by a clock that cannot be set: a process that started
    with a clock that is ahead forgets no failure for that."""
    return CLOCK.elapsed() - _STARTED


async def _locked_row(key: str, now: int) -> SignInFailure:
    """The row of `key`, made when missing, that nobody else changes in this transaction."""
    while True:
        await SignInFailure.bulk_create(
            [SignInFailure(key=key, count=0, last_at=now)], ignore_conflicts=True
        )
        failure = await SignInFailure.filter(key=key).select_for_update().get_or_none()
        # None: somebody was forgiven, or a prune came, between the two statements.
        if failure is not None:
            if failure.last_at > credible(now):
                # A clock that was ahead wrote it: a lock lasts no longer for that.
                failure.last_at = now
            return failure
