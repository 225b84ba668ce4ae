"""A cache of what was used last, bounded in number and in weight."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """At most `count` values, whose weights add up to at most `weight`."""

    def __init__(self, *, count: int, weight: int) -> None:
        self.weight = 0
        self._count = count
        self._most = weight
        self._kept: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: Key) -> bool:
        return key in self._kept

    def get(self, key: Key) -> Value | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        self._kept.move_to_end(key)
        return kept[0]

    def put(self, key: Key, value: Value, weight: int) -> None:
        """Keep a value under a key that is not in use, and let go of those used longest ago."""
        self._kept[key] = (value, weight)
        self.weight += weight
        while len(self._kept) > self._count or self.weight > self._most:
            _, (_, gone) = self._kept.popitem(last=False)
            self.weight -= gone
