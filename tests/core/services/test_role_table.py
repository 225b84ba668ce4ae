"""The documentation shows the table that the code obeys."""

from scripts.role_table import PAGE, renewed, table

from remotegpu_core.services.roles import MEANINGS


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text()
    assert renewed(page) == page, "run python scripts/role_table.py --write"
    assert table() in page
    assert all(meaning in page for meaning in MEANINGS.values())


def test_a_stale_page_is_renewed() -> None:
    page = PAGE.read_text()
    stale = page.replace("| yes |", "| no |", 1)
    assert stale != page
    assert renewed(stale) == page
