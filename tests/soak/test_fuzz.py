"""Hostile clients of every kind at once: nothing in the log, nothing left over, still answering."""

import asyncio
import os
import time
from collections import Counter
from random import Random

import pytest

from tests.soak.attackers import ATTACKS, Attack
from tests.soak.plane import Plane, Reading, running_plane

#: Seconds; `make soak` says how long it takes, and a run as part of all tests is short.
LONG = float(os.environ.get("SOAK_SECONDS") or 600)
SHORT = 10.0
#: Attackers at a time.
AT_ONCE = 24


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(SHORT, marks=pytest.mark.timeout(SHORT + 150), id="short"),
        pytest.param(LONG, marks=[pytest.mark.soak, pytest.mark.timeout(LONG + 150)], id="long"),
    ],
)
def test_fuzz(seconds: float) -> None:
    seed = int(os.environ.get("FUZZ_SEED", time.time_ns() % 2**32))
    print(f"FUZZ_SEED={seed}")  # noqa: T201 - pytest shows it when the test fails
    with running_plane(6) as plane:
        machines = plane.machine_ids()
        fresh = plane.read()
        # What the server makes once and keeps is there after this.
        done = _fuzz(plane, machines, seed, seconds / 3)
        warm = plane.at_rest(fresh)
        done += _fuzz(plane, machines, seed + 1, seconds * 2 / 3)
        after = plane.at_rest(fresh)
        assert plane.process.running
        assert plane.get("/healthz")[0] == 200
        assert plane.machine_ids() == machines
        assert plane.complaints() == []
        # Every kind got somewhere.
        assert set(done) == {"http", "viewer", "agent", "raw"}
        print(done, fresh, warm, after)  # noqa: T201 - as above
        _check_growth(warm, after)


def _check_growth(warm: Reading, after: Reading) -> None:
    """The allocator keeps what the busiest moment took, which is another in each run."""
    assert after.resident < warm.resident * 1.1, (warm, after)


def _fuzz(plane: Plane, machines: list[str], seed: int, seconds: float) -> Counter[str]:
    return asyncio.run(_attack(plane, machines, seed, seconds))


async def _attack(plane: Plane, machines: list[str], seed: int, seconds: float) -> Counter[str]:
    deadline = time.monotonic() + seconds
    attacks = [Attack(plane, machines, Random(f"{seed} {number}")) for number in range(AT_ONCE)]

    async def run(number: int, attack: Attack) -> None:
        while time.monotonic() < deadline:
            await ATTACKS[number % len(ATTACKS)](attack)

    await asyncio.gather(*(run(number, attack) for number, attack in enumerate(attacks)))
    bad = [what for attack in attacks for what in attack.bad]
    assert bad == []
    return sum((attack.done for attack in attacks), Counter[str]())
