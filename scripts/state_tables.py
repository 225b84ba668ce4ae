"""Renews the tables of docs/allocations.md from the code: what may follow what.

python scripts/state_tables.py            say whether the page is out of date (exit code 1)
python scripts/state_tables.py --write    renew them
"""

import argparse
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import cast

from graphql import GraphQLEnumType

from remotegpu_core.services.allocations.reason import ReasonCode
from remotegpu_core.states import (
    TRANSITIONS,
    AllocationState,
    CommandState,
    OperationState,
    StepState,
)
from remotegpu_graphql.engine import Engine

PAGE = Path(__file__).parent.parent / "docs" / "allocations.md"

_AXES: dict[str, type[StrEnum]] = {
    "allocations": AllocationState,
    "operations": OperationState,
    "steps": StepState,
    "commands": CommandState,
}
_BLOCK = re.compile(r"(?<=<!-- )(?!end)([a-z]+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)


def transitions(axis: type[StrEnum]) -> str:
    """A state a row, with the states that may follow it."""
    rows = [("state", "then"), ("---", "---")]
    for state in axis:
        targets = TRANSITIONS[axis][state]
        then = ", ".join(f"`{target}`" for target in axis if target in targets)
        rows.append((f"`{state}`", then or "nothing: it is over"))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def reasons() -> str:
    """Codes of `pendingReasons` as the schema describes them."""
    enum = cast("GraphQLEnumType", Engine().schema.type_map["PendingReasonCode"])
    described = {name: value.description or "" for name, value in enum.values.items()}
    rows = [("code", "means"), ("---", "---")]
    rows += [(f"`{code}`", described[code]) for code in ReasonCode]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def renewed(page: str) -> str:
    """The page with the tables as they should be."""

    def table(block: re.Match[str]) -> str:
        name = block[1]
        made = reasons() if name == "reasons" else transitions(_AXES[name])
        return f"{name}{block[2]}{made}"

    return _BLOCK.sub(table, page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    page = PAGE.read_text()
    if renewed(page) == page:
        return 0
    if parser.parse_args().write:
        PAGE.write_text(renewed(page))
        return 0
    sys.stderr.write(f"{PAGE.name} is out of date: run python scripts/state_tables.py --write\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
