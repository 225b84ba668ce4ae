"""What is on its way and not there yet: bodies of requests, first words of websockets."""

import contextlib
from collections.abc import Callable, Iterator


class Arrivals:
    """Bounds how many are awaited at a time, in all and of each holder.

    Beyond a bound, the one that was awaited longest gives way: what honest clients send arrives
    within moments, so whoever holds back what they announced keeps nobody else out.
    """

    def __init__(self) -> None:
        #: The longest awaited first.
        self._all: dict[Callable[[], None], object] = {}
        self._of_holder: dict[object, dict[Callable[[], None], None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    @contextlib.contextmanager
    def awaiting(
        self, holder: object, give_way: Callable[[], None], *, total: int, each: int
    ) -> Iterator[None]:
        """Around the wait. `give_way` ends it, and is called at most once."""
        if len(self._of_holder.get(holder, ())) >= each:
            self._end(next(iter(self._of_holder[holder])))
        elif len(self._all) >= total:
            self._end(next(iter(self._all)))
        self._all[give_way] = holder
        self._of_holder.setdefault(holder, {})[give_way] = None
        try:
            yield
        finally:
            self._forget(give_way)

    def _end(self, give_way: Callable[[], None]) -> None:
        self._forget(give_way)
        give_way()

    def _forget(self, give_way: Callable[[], None]) -> None:
        holder = self._all.pop(give_way, None)
        of_holder = self._of_holder.get(holder)
        if of_holder is not None:
            of_holder.pop(give_way, None)
            if not of_holder:
                del self._of_holder[holder]
