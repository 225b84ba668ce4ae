"""Which Python `make` takes, and the one line it says where there is none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.layout.house import ROOT


class Machine:
    """A PATH that holds what the script itself needs and the Pythons that a test puts there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for tool in ("dirname", "id", "sh"):
            found = shutil.which(tool)
            assert found is not None
            (folder / tool).symlink_to(found)

    def add_python(self, name: str, *, version: str | None = None) -> Path:
        """This interpreter under another name, or one that only says an old version."""
        path = self._folder / name
        if version is None:
            path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        else:
            path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}"\n')
        path.chmod(0o755)
        return path

    def find(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", ROOT / "scripts/find_python.sh"],
            check=False,
            capture_output=True,
            text=True,
            env={"PATH": str(self._folder), **environment},
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_python3_is_taken_when_it_is_new_enough(machine: Machine) -> None:
    python = machine.add_python("python3")
    machine.add_python("python3.12")
    assert machine.find().stdout.strip() == os.fspath(python)


def test_a_newer_one_beside_an_old_python3_is_taken(machine: Machine) -> None:
    machine.add_python("python3", version="3.9.2")
    python = machine.add_python("python3.12")
    assert machine.find().stdout.strip() == os.fspath(python)


def test_too_old_a_python_gets_one_line(machine: Machine) -> None:
    machine.add_python("python3", version="3.9.2")
    found = machine.find()
    assert found.returncode == 1
    assert found.stderr.startswith("RemoteGPU needs Python 3.11 or newer and found Python 3.9.2.")
    assert found.stderr.count("\n") == 1


def test_no_python_gets_one_line(machine: Machine) -> None:
    found = machine.find()
    assert found.returncode == 1
    assert "found no python3" in found.stderr
    assert found.stderr.count("\n") == 1


def test_a_chosen_python_is_taken_or_refused(machine: Machine) -> None:
    python = machine.add_python("mine")
    machine.add_python("ancient", version="2.7.18")
    assert machine.find(PYTHON="mine").stdout.strip() == os.fspath(python)
    assert "is Python 2.7.18" in machine.find(PYTHON="ancient").stderr
    assert "is not a program" in machine.find(PYTHON="/no/such/python").stderr
