"""Whether the files in which the agent keeps what was given to whom can be read."""

import time
from collections.abc import Callable
from typing import Final

import structlog

from remotegpu_agent.commands.allocations import AllocationStore
from remotegpu_agent.datasets.records import MountStore
from remotegpu_agent.errors import StateDirectoryError
from remotegpu_agent.reclaim.baselines import BaselineStore
from remotegpu_agent.reclaim.records import ReclaimStore
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.limits import MAX_HELD_ALLOCATIONS

_log = structlog.get_logger("remotegpu_agent")

#: Seconds between two readings.
_INTERVAL: Final = 10.0


class HostRecords:
    """For the disk's thread. One that is damaged is told in the log, in the status and in the
    inventory: without it nobody knows who has the host, or what is to be cleaned."""

    def __init__(self, directory: StateDirectory) -> None:
        self._reads: tuple[Callable[[], object], ...] = (
            AllocationStore(directory).load,
            MountStore(directory).all,
            ReclaimStore(directory).unproven,
            BaselineStore(directory).check,
        )
        self._allocations = AllocationStore(directory)
        self._read_at = float("-inf")
        self._trouble: str | None = None

    def trouble(self) -> str | None:
        """Which of them cannot be read, and what to do; None when all can."""
        if time.monotonic() - self._read_at >= _INTERVAL:
            self._read_at = time.monotonic()
            found = self._read()
            if found is not None and found != self._trouble:
                _log.error("records cannot be read", reason=found)
            self._trouble = found
        return self._trouble

    def holdings(self) -> list[str]:
        """Ids of the allocations whose end the host was not told; none while they cannot be read,
        which `trouble` tells."""
        try:
            known = self._allocations.load()
        except StateDirectoryError:
            return []
        held = sorted(found.id for found in known.values() if not found.ended)
        return held[:MAX_HELD_ALLOCATIONS]

    def _read(self) -> str | None:
        for read in self._reads:
            try:
                read()
            except StateDirectoryError as error:
                return error.message
        return None
