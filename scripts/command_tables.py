"""Renews the tables of docs/commands.md from the code: what can be commanded, and what may follow what.

    python -m scripts.command_tables            say whether the page is out of date (exit code 1)
    python -m scripts.command_tables --write    renew it

The last column of each is prose, written in the page by hand, as in docs/protocol.md.
"""

import argparse
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Final

from scripts.protocol_tables import PageError, Table, missing_prose, renew

from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.handler import Handler
from remotegpu_agent.commands.policy import PolicyFile
from remotegpu_agent.commands.registry import make_handlers
from remotegpu_agent.sources.absent import AbsentSource
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_core.states import (
    FINAL,
    TRANSITIONS,
    AllocationState,
    CommandState,
    Lifecycle,
    OperationState,
    Presence,
    StepState,
)
from remotegpu_protocol.kinds import KINDS

PAGE: Final = Path(__file__).parent.parent / "docs" / "commands.md"

_STATES: Final[dict[str, type[StrEnum]]] = {
    "command states": CommandState,
    "operation states": OperationState,
    "step states": StepState,
    "allocation states": AllocationState,
    "presence": Presence,
    "lifecycle": Lifecycle,
}


def tables() -> dict[str, Table]:
    """Every table that the page must hold, by name."""
    return {name: _states(states) for name, states in _STATES.items()} | {"kinds": _kinds()}


def _states(states: type[StrEnum]) -> Table:
    rows = []
    for state in states:
        # In the order in which they are declared.
        follow = [f"`{next_}`" for next_ in states if next_ in TRANSITIONS[states][state]]
        rows.append((f"`{state}`", "yes" if state in FINAL else "", ", ".join(follow) or "nothing"))
    return Table(("state", "an end", "may become"), tuple(rows))


def _kinds() -> Table:
    with tempfile.TemporaryDirectory() as folder:
        handlers = make_handlers(
            StateDirectory(Path(folder)), DiskThread(), PolicyFile(), AbsentSource()
        )
    rows = []
    for kind in KINDS.values():
        handler = type(handlers[kind.name])
        rows.append(
            (
                f"`{kind.name}`",
                ", ".join(f"`{name}`" for name in kind.arguments.__struct_fields__),
                ", ".join(f"`{name}`" for name in kind.result.__struct_fields__) or "nothing",
                "no" if handler.look_up is Handler.look_up else "yes",
                "yes" if handler.stoppable else "no",
            )
        )
    columns = ("kind", "arguments", "result", "looked up after a crash", "stopped by a cancel")
    return Table(columns, tuple(rows))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Compare docs/commands.md with the code.")
    parser.add_argument("--write", action="store_true", help="renew the page")
    parser.add_argument("--page", type=Path, default=PAGE, help="another page")
    options = parser.parse_args(arguments)
    page = options.page.read_text("utf-8")
    try:
        renewed = renew(page, tables())
    except PageError as error:
        sys.stderr.write(f"{options.page}: {error}\n")
        return 1
    if options.write:
        options.page.write_text(renewed, "utf-8")
    elif renewed != page:
        sys.stderr.write(
            f"{options.page} is out of date: run `python -m scripts.command_tables --write`.\n"
        )
        return 1
    if missing := missing_prose(renewed):
        sys.stderr.write(f"{options.page}: write what these rows mean: {'; '.join(missing)}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
