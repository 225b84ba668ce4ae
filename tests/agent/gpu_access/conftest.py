"""A directory that any user can look into: pytest's own are for root alone."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.gpu_access.devices import Devices


@pytest.fixture
def root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="remotegpu-devices-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def devices(root: Path) -> Devices:
    """A host with two cards, whose driver leaves device files shut."""
    return Devices(root)
