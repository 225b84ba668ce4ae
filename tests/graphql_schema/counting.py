"""How often a document asks the database and Redis."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator

from redis import Redis

#: Duties of the control plane that ask by themselves.
_DUTIES = frozenset({"version-watch", "sample-feed"})

_ABOUT_IT = ("cmdstat_hello", "cmdstat_info", "cmdstat_config", "cmdstat_client", "cmdstat_ping")
#: Replicas tell each other what they counted for rate limits, whatever is asked.
_RATES = ("cmdstat_eval", "cmdstat_hincrby", "cmdstat_expire", "cmdstat_hmget")


class Statements(logging.Handler):
    """SQL statements that Tortoise logs, but for those of the control plane's own duties."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        task = asyncio.current_task()
        if task is None or task.get_name() not in _DUTIES:
            self.seen.append(record.getMessage())


@contextlib.contextmanager
def statements() -> Iterator[list[str]]:
    """The statements that run within the block."""
    logger, handler = logging.getLogger("tortoise.db_client"), Statements()
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield handler.seen
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def commands(client: "Redis") -> dict[str, int]:
    """How often the server ran each command, but for duties and for what asks about it."""
    stats = client.info("commandstats")
    assert isinstance(stats, dict)
    return {
        name.removeprefix("cmdstat_"): int(values["calls"])
        for name, values in stats.items()
        if not name.startswith(_ABOUT_IT + _RATES)
    }
