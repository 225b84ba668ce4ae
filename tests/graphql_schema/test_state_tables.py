"""The documentation shows the tables that the code obeys."""

from scripts.state_tables import PAGE, reasons, renewed, transitions

from remotegpu_core.services.allocations.reason import ReasonCode
from remotegpu_core.states import AllocationState, CommandState, OperationState, StepState


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text()
    assert renewed(page) == page, "run python scripts/state_tables.py --write"
    for axis in (AllocationState, OperationState, StepState, CommandState):
        assert transitions(axis) in page
    assert reasons() in page
    assert all(f"`{code}`" in page for code in ReasonCode)


def test_a_stale_page_is_renewed() -> None:
    page = PAGE.read_text()
    stale = page.replace("| `ACTIVE` | `RECLAIMING` |", "| `ACTIVE` | `FAILED` |")
    assert stale != page
    assert renewed(stale) == page
