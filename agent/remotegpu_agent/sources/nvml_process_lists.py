"""NVML's lists of processes, and whether they can be right. Runs in the worker.

Libraries and drivers of different versions have laid the entries out differently: read as another version's,
a list holds process 0 and sizes that no card has. What looks right in such a list is no better.
"""

from collections.abc import Sequence
from typing import Any, Final

import pynvml

from remotegpu_agent.sources.nvml_calls import Card
from remotegpu_protocol.values import MAX_SAFE_INTEGER

#: The kernel's PID_MAX_LIMIT.
_MAX_PID: Final = 2**22

#: Processes of one card: far more than one has contexts for.
_MAX_LISTED: Final = 4096

#: What older and newer libraries put where they have no figure for a process's memory.
NOT_AVAILABLE: Final = 2**64 - 1

_COMPUTE: Final = (
    pynvml.nvmlDeviceGetComputeRunningProcesses_v3,
    pynvml.nvmlDeviceGetComputeRunningProcesses_v2,
)
_GRAPHICS: Final = (
    pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3,
    pynvml.nvmlDeviceGetGraphicsRunningProcesses_v2,
)
_FIELD: Final = "processes"


class ProcessLists:
    """Of one driver: once one of its lists cannot be right, none of them is shown any more."""

    def __init__(self, driver_version: str | None) -> None:
        self._driver = driver_version or "of an unknown version"
        self._fault: str | None = None

    def read(self, card: Card, total: int | None) -> list[list[Any]] | None:
        """The lists that the card has, of computing and of drawing processes; None where it has none
        or they are not to be believed. `total`: the card's memory."""
        lists = [
            found
            for functions in (_COMPUTE, _GRAPHICS)
            if (found := _running(card, functions)) is not None
        ]
        for found in lists:
            self._fault = self._fault or _fault(found, total)
        if self._fault is None:
            return lists or None
        card.remark(
            _FIELD,
            f"The driver {self._driver} lists {self._fault}, which cannot be: its lists of processes "
            "are unreliable, so none is shown. Install driver and library of one version, or a newer "
            "agent.",
        )
        return None


def _running(card: Card, functions: Sequence[Any]) -> list[Any] | None:
    """By the newest of the functions that the library has."""
    for function in functions:
        processes = card.read(_FIELD, function)
        if processes is not None:
            return list(processes)
    return None


def _fault(processes: Sequence[Any], total: int | None) -> str | None:
    if len(processes) > _MAX_LISTED:
        return f"{len(processes)} processes on one card"
    largest = total or MAX_SAFE_INTEGER
    for process in processes:
        pid, used = int(process.pid), process.usedGpuMemory
        if not 0 < pid <= _MAX_PID:
            return f"a process {pid}"
        if used is not None and used != NOT_AVAILABLE and not 0 <= used <= largest:
            return f"a process with {used} bytes of memory"
    return None
