"""Which core runs what: the server under test has one to itself, everything else shares another."""

import os
import shutil
from pathlib import Path

SERVER = 0
CLIENT = 1


class TooFewCores(Exception):
    """The machine cannot keep the server apart from its load."""


def check_cores() -> None:
    """Raises TooFewCores where the two cores are not there, or `taskset` is not."""
    available = os.sched_getaffinity(0)
    if not {SERVER, CLIENT} <= available:
        raise TooFewCores(
            f"Benchmarks pin the server to core {SERVER} and its load to core {CLIENT}; this "
            f"process may use {sorted(available)}. Run them where both are free."
        )
    if shutil.which("taskset") is None:
        raise TooFewCores("Benchmarks need taskset: apt-get install util-linux")


def stay_with_the_load() -> None:
    """Pin this process, and with it what it starts, to the load's core."""
    os.sched_setaffinity(0, {CLIENT})


def on_core(core: int, command: list[str | Path]) -> list[str | Path]:
    """`command`, pinned. taskset replaces itself with it, so the pid stays right."""
    return ["taskset", "--cpu-list", str(core), *command]
