"""Counting failed sign-ins, in the database so that every replica counts together.

An attempt is counted before the password is checked and forgiven when it was right: a hundred at
once get no more tries than a hundred in a row.
"""

from remotegpu_core.clock import now_ms
from remotegpu_core.database.transactions import transaction
from remotegpu_core.errors import LockedOut
from remotegpu_core.models import SignInFailure

#: Milliseconds that a lock holds, and that failures are remembered.
LOCK = 15 * 60 * 1000

#: Failures that lock a user name for one source address; a source altogether (guessing through
#: many names); a name altogether (guessing from many addresses).
PAIR_LIMIT = 5
SOURCE_LIMIT = 50
ACCOUNT_LIMIT = 100


def _keys(username_key: str, source: str) -> list[tuple[str, int]]:
    return [
        (f"pair {username_key} {source}", PAIR_LIMIT),
        (f"source {source}", SOURCE_LIMIT),
        (f"account {username_key}", ACCOUNT_LIMIT),
    ]


async def count_attempt(username_key: str, source_address: str | None) -> None:
    """Count an attempt that is about to be checked.

    Raises:
        LockedOut: there were too many; the password is not to be looked at.
    """
    now = now_ms()
    wait = 0
    async with transaction():
        for key, limit in _keys(username_key, source_address or "local"):
            failure = await _locked_row(key, now)
            if now - failure.last_at >= LOCK:
                failure.count = 0
            if failure.count >= limit:
                wait = max(wait, failure.last_at + LOCK - now)
                continue
            failure.count += 1
            failure.last_at = now
            await failure.save()
    if wait:
        raise LockedOut(
            f"Too many failed sign-ins. Try again in {-(-wait // 60_000)} minutes; an "
            "administrator can set a new password with `remotegpu user reset-password`.",
            field="username",
        )


async def forgive(username_key: str, source_address: str | None) -> None:
    """The password was right: these attempts do not count."""
    for key, _ in _keys(username_key, source_address or "local"):
        await SignInFailure.filter(key=key).delete()


async def forgive_account(username_key: str) -> None:
    """An administrator set a new password: let the user in from everywhere."""
    await SignInFailure.filter(key__startswith=f"pair {username_key} ").delete()
    await SignInFailure.filter(key=f"account {username_key}").delete()


async def prune() -> None:
    await SignInFailure.filter(last_at__lt=now_ms() - LOCK).delete()


async def _locked_row(key: str, now: int) -> SignInFailure:
    """The row of `key`, made when missing, that nobody else changes in this transaction."""
    await SignInFailure.bulk_create(
        [SignInFailure(key=key, count=0, last_at=now)], ignore_conflicts=True
    )
    return await SignInFailure.filter(key=key).select_for_update().get()
