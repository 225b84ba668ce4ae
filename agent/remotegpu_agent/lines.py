"""Tables of the system, in which users write some of the words."""

import os
from pathlib import Path


def read_lines(path: Path) -> list[str]:
    """Lines that end with a line feed and nothing else, which no program name, comment or path in
    such a table holds. `str.splitlines` and text files know a dozen other ends of lines.

    Raises:
        OSError: it cannot be read.
    """
    return os.fsdecode(path.read_bytes()).removesuffix("\n").split("\n")
