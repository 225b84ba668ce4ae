"""The protocol and docs/reclaim.md name the surfaces that are cleaned, in their order."""

from pathlib import Path

from remotegpu_agent.reclaim.steps import make_steps
from remotegpu_agent.sources.absent import AbsentSource
from remotegpu_protocol.surfaces import SURFACES
from tests.agent.reclaim.test_engine import TENANCY
from tests.agent.reclaim.test_hosts import no_access

_PAGE = Path(__file__).parents[3] / "docs" / "reclaim.md"


def test_all_places_in_their_order() -> None:
    section = _PAGE.read_text().split("## The places")[1].split("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")]
    steps = make_steps(TENANCY, AbsentSource(), {}, no_access())
    assert rows[2:] == [step.surface for step in steps] == list(SURFACES)
