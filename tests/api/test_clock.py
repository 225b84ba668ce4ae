"""Leaps of the server's clock, with the server running and at its start."""

from pathlib import Path

import pytest

from remotegpu_core.clock import CLOCK, now_ms
from remotegpu_core.models import Machine
from remotegpu_core.states import Presence
from tests.api.host import enrolled
from tests.api.plane import Backend, Server, serving
from tests.core.patience import eventually

DAY = 86_400_000

FROZEN = "{ freeze { cause reason } }"
END = "mutation { endFreeze { freeze { cause } userErrors { message } } }"


def leap(monkeypatch: pytest.MonkeyPatch, by: int) -> None:
    """The host's wall clock is `by` milliseconds off from now on."""
    real = type(CLOCK).wall
    monkeypatch.setattr(CLOCK, "wall", lambda: real() + by)


async def cause(server: Server, admin: str) -> str | None:
    held = (await server.ask(FROZEN, token=admin))["freeze"]
    return None if held is None else held["cause"]


async def test_a_leap_while_it_runs(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    before = now_ms()
    async with host.connected():
        leap(monkeypatch, DAY)

        async def doubted() -> bool:
            return await cause(server, admin) == "CLOCK"

        await eventually(doubted)
        # It was not the host that fell silent, and nothing was stamped with tomorrow.
        machine = await Machine.get()
        assert machine.presence is Presence.ONLINE
        assert before <= (machine.last_seen_at or 0) < before + 60_000
        leap(monkeypatch, 0)

        async def trusted() -> bool:
            return await cause(server, admin) == "STARTED"

        await eventually(trusted)


@pytest.mark.parametrize("by", [DAY, -DAY])
async def test_a_start_by_another_clock(
    embedded: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: int
) -> None:
    async with serving(embedded, tmp_path / "state"):
        pass
    leap(monkeypatch, by)
    CLOCK.adopt()
    try:
        async with serving(embedded, tmp_path / "state") as server:
            admin = await server.sign_in()
            assert await cause(server, admin) == "CLOCK"
            ended = (await server.ask(END, token=admin))["endFreeze"]
            assert ended == {"freeze": {"cause": "CLOCK"}, "userErrors": []}
            # Confirmed: another start by it is nothing special.
        async with serving(embedded, tmp_path / "state") as server:
            admin = await server.sign_in()
            assert await cause(server, admin) == "STARTED"
    finally:
        monkeypatch.undo()
        CLOCK.adopt()
