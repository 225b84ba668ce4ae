"""One owner of each periodic duty, however many replicas run.

A duty asks before each round whether it is still the owner; what it does then is conditional in
itself as well, so that one who is stopped in the middle of a round does no harm when it wakes.
"""

import uuid
from typing import Final

from tortoise.connection import get_connection
from tortoise.exceptions import IntegrityError

from remotegpu_core.clock import TOLERANCE, now_ms
from remotegpu_core.database.transactions import transaction
from remotegpu_core.models import Lease

#: Milliseconds for which a duty stays with its owner without another word.
LIFETIME: Final = 15_000

_NOBODY: Final = uuid.UUID(int=0)

# By the database's own clock, which is one: those of the replicas are several. SQLite runs in the
# process that asks.
_POSTGRES_NOW: Final = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"

_TAKE: Final = (
    "UPDATE lease SET until = {now} + {lifetime}, "
    "token = CASE WHEN holder = '{holder}' THEN token ELSE token + 1 END, holder = '{holder}' "
    "WHERE name = '{name}' AND (holder = '{holder}' OR until <= {now} "
    # A clock that was ahead wrote it.
    "OR until > {now} + {longest}) RETURNING token"
)


async def hold(name: str, holder: uuid.UUID, *, lifetime: int = LIFETIME) -> int | None:
    """Take or renew the duty `name` for `lifetime` milliseconds; None when another has it.

    The token that it returns is the same for as long as the duty does not change hands.
    """
    while True:
        async with transaction() as client:
            sqlite = client.capabilities.dialect == "sqlite"
            rows = await get_connection("default").execute_query_dict(
                _TAKE.format(
                    now=str(now_ms()) if sqlite else _POSTGRES_NOW,
                    lifetime=int(lifetime),
                    longest=max(int(lifetime), LIFETIME) + TOLERANCE,
                    holder=holder,
                    name=_checked(name),
                )
            )
        if rows:
            return int(rows[0]["token"])
        if await Lease.exists(name=name):
            return None
        try:
            # Made as nobody's, so that whoever takes it first has it.
            await Lease.create(name=name, holder=_NOBODY, until=0, token=0)
        except IntegrityError:
            # Somebody else made it at the same time.
            continue


async def let_go(holder: uuid.UUID) -> None:
    """End every lease of a replica that ends in an orderly way: the next one need not wait."""
    await Lease.filter(holder=holder).update(until=0)


def _checked(name: str) -> str:
    if not name.replace("-", "").isalpha() or len(name) > 32:
        raise ValueError(f"{name!r} cannot name a duty")
    return name
