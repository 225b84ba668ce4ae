"""Places: how many may be served at a time, in all and for each holder."""

import contextlib
from collections import Counter
from collections.abc import Iterator

from remotegpu_core.errors import Overloaded


def share_of_strangers(total: int) -> int:
    """How many of `total` places callers who are not signed in may take. The others are kept."""
    return max(1, total // 2)


class Places:
    """Counts who is served now. `what` and `holder` are words for a refusal."""

    def __init__(self, what: str, holder: str) -> None:
        self.taken = 0
        self._what = what
        self._holder = holder
        self._of_holder: Counter[object] = Counter()

    @contextlib.contextmanager
    def take(self, holder: object, *, total: int, each: int) -> Iterator[None]:
        """Hold a place until the block ends.

        Raises:
            Overloaded: `total` are taken, or `each` by this holder.
        """
        if self.taken >= total:
            raise Overloaded(f"Too many {self._what}, {total} at a time: try again later.")
        if self._of_holder[holder] >= each:
            raise Overloaded(
                f"Too many {self._what} of one {self._holder}, {each} at a time: try again later."
            )
        self.taken += 1
        self._of_holder[holder] += 1
        try:
            yield
        finally:
            self.taken -= 1
            self._of_holder[holder] -= 1
            if not self._of_holder[holder]:
                del self._of_holder[holder]
