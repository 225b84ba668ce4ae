"""Counting failed sign-ins, in the database so that every replica counts together.

An attempt is counted before the password is checked and forgiven when it was right: a hundred at
once get no more tries than a hundred in a row.
"""

from remotegpu_core.clock import credible, now_ms
from remotegpu_core.database.transactions import transaction
from remotegpu_core.errors import LockedOut
from remotegpu_core.models import SignInFailure
from remotegpu_core.secret import secret_hash

#: Milliseconds that a lock holds, and that failures are remembered.
LOCK = 15 * 60 * 1000

#: Failures that lock a user name for one source address; a source altogether (guessing through
#: many names); a name altogether (guessing from many addresses).
PAIR_LIMIT = 5
SOURCE_LIMIT = 50
ACCOUNT_LIMIT = 100


def _keys(username_key: str, source: str) -> list[tuple[str, int]]:
    name = _hidden(username_key)
    return [
        (f"pair {name} {source}", PAIR_LIMIT),
        (f"source {source}", SOURCE_LIMIT),
        (f"account {name}", ACCOUNT_LIMIT),
    ]


def _hidden(username_key: str) -> str:
    """What stands for a name: some people type their password where the name belongs."""
    return secret_hash(username_key)[:32]


async def count_attempt(username_key: str, source_address: str | None) -> None:
    """Count an attempt that is about to be checked.

    Raises:
        LockedOut: there were too many; the password is not to be looked at.
    """
    now = now_ms()
    async with transaction():
        wait, failures = 0, []
        for key, limit in _keys(username_key, source_address or "local"):
            failure = await _locked_row(key, now)
            if now - failure.last_at >= LOCK:
                failure.count = 0
            if failure.count >= limit:
                wait = max(wait, failure.last_at + LOCK - now)
            failures.append(failure)
        if wait:
            # Nothing is written: an attempt that is not checked counts towards no other lock, or
            # one address could lock an account for all by knocking on its own locked door.
            raise LockedOut(
                f"Too many failed sign-ins. Try again in {-(-wait // 60_000)} minutes; an "
                "administrator can set a new password with `remotegpu user reset-password`.",
                field="username",
            )
        for failure in failures:
            failure.count += 1
            failure.last_at = now
            await failure.save()


async def forgive(username_key: str, source_address: str | None) -> None:
    """The password was right: what this user tried from this address does not count.

    What was tried there with other names goes on counting: somebody with an account of their own
    could guess at others' passwords without end otherwise.
    """
    (pair, _), *others = _keys(username_key, source_address or "local")
    async with transaction():
        tried = await SignInFailure.filter(key=pair).select_for_update().get_or_none()
        if tried is None:
            return
        await tried.delete()
        for key, _ in others:
            failure = await SignInFailure.filter(key=key).select_for_update().get_or_none()
            if failure is not None and failure.count > tried.count:
                await SignInFailure.filter(key=key).update(count=failure.count - tried.count)
            elif failure is not None:
                await failure.delete()


async def forgive_account(username_key: str) -> None:
    """An administrator set a new password: let the user in from everywhere."""
    name = _hidden(username_key)
    await SignInFailure.filter(key__startswith=f"pair {name} ").delete()
    await SignInFailure.filter(key=f"account {name}").delete()


async def prune() -> None:
    await SignInFailure.filter(last_at__lt=now_ms() - LOCK).delete()


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
