"""What befalls a GPU, from its driver through the real agent and control plane into the graph."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.agent.program import call, started
from tests.agent.stub import StubDriver, build_library
from tests.api.documents import LIVE
from tests.api.host import enrollment_token
from tests.api.plane import Server
from tests.api.viewer import Operation, viewing

GPU_IS_LOST = 15

FAULTS = """query Faults($id: ID!) { machine(id: $id) { presence health healthReasons gpus {
  uuid health healthReason migEnabled migDevices { uuid name memoryTotal } } } }"""


@pytest.fixture
def driver(tmp_path: Path) -> StubDriver:
    """NVIDIA's driver of a host with two cards; one is divided by MIG."""
    driver = StubDriver(tmp_path, build_library(tmp_path))
    driver.install()
    driver.tell(
        {
            "card1.mig": 1,
            "card1.mig0.uuid": "MIG-0",
            "card1.mig0.name": "NVIDIA H100 MIG 1g.10gb",
            "card1.mig0.memory.total": 10 * 1024**3,
        }
    )
    return driver


@asynccontextmanager
async def _agent(
    server: Server, admin: str, driver: StubDriver, state: Path
) -> AsyncIterator[None]:
    """The real agent on that host, enrolled."""
    token = await enrollment_token(server, admin, "gpu-01")
    directory = ("--state-dir", str(state))
    answer = await call(
        *("enroll", "--server", server.origin, "--token", "-", *directory),
        stdin=token,
        environment=driver.environment,
    )
    assert answer.code == 0, answer.err
    run = ("run", *directory, "--driver-retry", "1")
    async with started(*run, environment=driver.environment):
        yield


async def _health(
    server: Server, admin: str, changes: Operation, fits: Callable[[Any], bool]
) -> Any:
    """The machine as soon as its health is so, asked anew only when an event says it changed."""
    while True:
        change = (await changes.data(within=15))["machineChanged"]
        if change["kind"] == "HEALTH_CHANGED":
            found = await server.ask(FAULTS, {"id": change["machineId"]}, token=admin)
            if fits(found["machine"]):
                return found["machine"]


async def test_faults_of_one_gpu_are_seen_and_leave_the_other_alone(
    server: Server, driver: StubDriver, tmp_path: Path
) -> None:
    admin = await server.sign_in()
    async with (
        viewing(server, admin) as viewer,
        _agent(server, admin, driver, tmp_path / "agent"),
    ):
        changes = await viewer.subscribe(LIVE, operation="MachineChanges")
        while (change := (await changes.data(within=15))["machineChanged"])["kind"] != (
            "INVENTORY_CHANGED"
        ):
            pass
        machine = change["machineId"]
        (first, second) = (await server.ask(FAULTS, {"id": machine}, token=admin))["machine"][
            "gpus"
        ]
        assert (first["migEnabled"], first["migDevices"]) == (False, [])
        assert second["migEnabled"] is True
        assert second["migDevices"] == [
            {"uuid": "MIG-0", "name": "NVIDIA H100 MIG 1g.10gb", "memoryTotal": 10 * 1024**3}
        ]
        samples = await viewer.subscribe(
            LIVE, {"machineIds": [machine]}, operation="MachineMetrics"
        )
        await samples.data(within=15)

        # An XID error: told once, at once.
        driver.tell({"card1.xids": "94:3"})
        seen = await _health(server, admin, changes, lambda found: found["health"] == "DEGRADED")
        assert seen["gpus"][0] == first
        assert seen["gpus"][1]["healthReason"] == ("XID 94 (GPU instance 3): contained ECC error.")
        assert seen["healthReasons"] == ["GPU 1: XID 94 (GPU instance 3): contained ECC error."]

        # A call about the other card hangs: its samples are null, and nothing else is.
        driver.tell({"card0.nvmlDeviceGetTemperature.hang": 1})
        seen = await _health(
            server, admin, changes, lambda found: found["gpus"][0]["health"] != "HEALTHY"
        )
        assert "did not answer for this GPU" in seen["gpus"][0]["healthReason"]
        assert seen["presence"] == "ONLINE"
        for _ in range(10):
            event = (await samples.data(within=10))["machineMetrics"]
            if event["gpus"][0]["utilization"] is None:
                break
        for _ in range(2):
            event = (await samples.data(within=10))["machineMetrics"]
            assert [gpu["utilization"] for gpu in event["gpus"]] == [None, 40.0]
        driver.forget("card0.nvmlDeviceGetTemperature.hang")
        seen = await _health(
            server, admin, changes, lambda found: found["gpus"][0]["health"] == "HEALTHY"
        )
        assert seen["health"] == "DEGRADED"

        # Unplugged, and plugged in again: the card starts anew, its errors are of the past.
        driver.tell({"card1.lost": GPU_IS_LOST})
        seen = await _health(
            server, admin, changes, lambda found: found["gpus"][1]["health"] == "UNHEALTHY"
        )
        assert seen["gpus"][1]["healthReason"].startswith("GPU is lost (NVML 15); XID 94")
        assert seen["gpus"][0] == first
        driver.forget("card1.lost")
        seen = await _health(server, admin, changes, lambda found: found["health"] == "HEALTHY")
        assert seen["gpus"] == [first, second]
