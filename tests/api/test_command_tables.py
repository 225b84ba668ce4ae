"""docs/commands.md says what the code does."""

import re
from pathlib import Path

import pytest
from scripts.command_tables import PAGE, main, tables

from remotegpu_core.states import TRANSITIONS, CommandState


def test_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert (main([]), capsys.readouterr().err) == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("| `ACTIVE` |  | `RECLAIMING` |", "| `ACTIVE` | yes | nothing |", "out of date"),
        ("| `allocation_id` |", "| `allocation` |", "out of date"),
        ("<!-- table: presence -->", "<!-- table: absence -->", "missing: ['presence']"),
    ],
)
def test_a_stale_page_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, complaint: str
) -> None:
    text = PAGE.read_text("utf-8")
    assert old in text
    page = tmp_path / "commands.md"
    page.write_text(text.replace(old, new), "utf-8")
    assert main(["--page", str(page)]) == 1
    assert complaint in capsys.readouterr().err


def test_the_tables_are_those_that_the_code_obeys() -> None:
    """Read without the script's own rendering."""
    section = (
        PAGE.read_text("utf-8").split("<!-- table: command states -->")[1].split("<!-- end")[0]
    )
    for state in CommandState:
        [row] = re.findall(rf"(?m)^\| `{state}` \| (?:yes)? \| (.*?) \|", section)
        named = {name.strip("`") for name in row.split(", ")} - {"nothing"}
        assert named == TRANSITIONS[CommandState][state]
    assert set(tables()) == set(re.findall("<!-- table: (.*?) -->", PAGE.read_text("utf-8")))


def test_every_link_leads_somewhere() -> None:
    text = PAGE.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", text):
        assert not target or (PAGE.parent / target).is_file(), target
