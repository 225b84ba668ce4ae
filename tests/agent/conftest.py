"""What tests of the agent may ask for: a state directory, a driver, a control plane."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from remotegpu_agent.identity import HostKey, Identity, store_identity
from remotegpu_agent.state_directory import StateDirectory
from tests.agent.control_plane import ControlPlane, running_control_plane
from tests.agent.stub import StubDriver, build_library


@pytest.fixture
def directory(tmp_path: Path) -> StateDirectory:
    """An empty state directory."""
    directory = StateDirectory(tmp_path / "state")
    directory.create()
    return directory


@pytest.fixture(scope="session")
def stub_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def driver(tmp_path: Path, stub_library: Path) -> StubDriver:
    """An installed driver with two cards."""
    driver = StubDriver(tmp_path, stub_library)
    driver.install()
    return driver


@pytest.fixture
def no_driver(tmp_path: Path, stub_library: Path) -> StubDriver:
    """A driver that a test may install later."""
    return StubDriver(tmp_path, stub_library)


@pytest.fixture
async def plane() -> AsyncIterator[ControlPlane]:
    async with running_control_plane() as plane:
        yield plane


@pytest.fixture
def identity(plane: ControlPlane, directory: StateDirectory) -> Identity:
    """An enrolled host, kept in `directory` and known to `plane`."""
    key = HostKey.generate()
    identity = Identity(key=key, machine_id="machine-1", machine_name="node-1", origin=plane.origin)
    plane.machines["machine-1"] = key.public_key
    store_identity(directory, identity)
    return identity
