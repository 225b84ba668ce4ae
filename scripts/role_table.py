"""Renews the table of docs/workspaces.md from the code: what each role may do in its workspace.

python scripts/role_table.py            say whether the page is out of date (exit code 1)
python scripts/role_table.py --write    renew it
"""

import argparse
import re
import sys
from pathlib import Path

from remotegpu_core.models import WorkspaceRole
from remotegpu_core.services.roles import MEANINGS, RIGHTS, Right

PAGE = Path(__file__).parent.parent / "docs" / "workspaces.md"

_TABLE = re.compile(r"(?<=<!-- roles -->\n).*?(?=<!-- end -->)", re.DOTALL)


def table() -> str:
    """Rights down, roles across, the most able one last."""
    roles = sorted(WorkspaceRole, key=lambda role: len(RIGHTS[role]))
    rows = [["may", *roles], ["---"] * (len(roles) + 1)]
    rows += [
        [MEANINGS[right], *("yes" if right in RIGHTS[role] else "" for role in roles)]
        for right in Right
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def renewed(page: str) -> str:
    """The page with the table as it should be."""
    return _TABLE.sub(lambda _old: table(), page, count=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    page = PAGE.read_text()
    if renewed(page) == page:
        return 0
    if parser.parse_args().write:
        PAGE.write_text(renewed(page))
        return 0
    sys.stderr.write(f"{PAGE.name} is out of date: run python scripts/role_table.py --write\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
