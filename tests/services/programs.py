"""Finding the programs of real servers, or saying how to get them."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest


def find_program(*names: str, package: str, folders: Iterable[Path] = ()) -> Path:
    """The first of `names` that exists in `folders`, then in PATH, then where Debian puts daemons.

    Fails the test rather than skipping it: a test that passes because its server is missing
    proves nothing.
    """
    path = os.pathsep.join(
        [*map(str, folders), os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"]
    )
    for name in names:
        if found := shutil.which(name, path=path):
            return Path(found)
    pytest.fail(
        f"These tests need {' or '.join(names)}, which is not installed. `make test` installs it "
        f"when run as root; by hand: apt-get install {package}",
        pytrace=False,
    )


def postgres_folders() -> list[Path]:
    """Debian's folders of PostgreSQL programs, newest version first."""
    versions = [
        folder
        for folder in Path("/usr/lib/postgresql").glob("*/bin")
        if folder.parent.name.isdigit()
    ]
    return sorted(versions, key=lambda folder: int(folder.parent.name), reverse=True)
