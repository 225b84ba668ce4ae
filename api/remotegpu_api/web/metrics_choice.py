"""Which part of the metrics a scrape asks for."""

from typing import Final

from starlette.datastructures import QueryParams

from remotegpu_core.errors import InvalidInput
from remotegpu_core.exposition.fleet import Choice, Group

#: Parts that the machines can be divided into.
MAX_SHARDS: Final = 64


def choice_of(query: QueryParams) -> Choice:
    """`collect[]=GROUP`, as often as wanted, and `shard=N&shards=M`; without them, everything.

    The server's own metrics come with shard 0, so that of all shards together each series is one.

    Raises:
        InvalidInput: a parameter or a value is not one of these.
    """
    unknown = sorted({*query} - {"collect[]", "shard", "shards"})
    if unknown:
        raise InvalidInput(
            f"Unknown parameter {unknown[0][:50]!r}. /metrics takes collect[], shard and shards."
        )
    names = query.getlist("collect[]")
    wrong = [name for name in names if name not in set(Group)]
    if wrong:
        known = ", ".join(Group)
        raise InvalidInput(f"Unknown group {wrong[0][:50]!r} in collect[]. Expected of: {known}.")
    shards = _number(query, "shards", 1, MAX_SHARDS, default=1)
    shard = _number(query, "shard", 0, shards - 1, default=0 if shards == 1 else None)
    groups = frozenset(map(Group, names)) or frozenset(Group)
    if shard > 0:
        groups -= {Group.SERVER}
    return Choice(groups, shard, shards)


def _number(query: QueryParams, name: str, least: int, most: int, *, default: int | None) -> int:
    given = query.getlist(name)
    if not given and default is not None:
        return default
    text = given[0] if len(given) == 1 else ""
    if not (text.isascii() and text.isdecimal() and len(text) <= 3 and least <= int(text) <= most):
        said = f"got {text[:20]!r}" if given else "got none"
        raise InvalidInput(f"{name} is one whole number from {least} to {most}; {said}.")
    return int(text)
