"""The status file and what is made of it."""

import json
import time

from remotegpu_agent.identity import HostKey, Identity, store_identity
from remotegpu_agent.report import read_report
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_agent.status import LinkState, StatusFile, load_status


def enrolled(directory: StateDirectory) -> None:
    store_identity(
        directory,
        Identity(
            key=HostKey.generate(),
            machine_id="machine-1",
            machine_name="node-1",
            origin="https://gpu.example.org",
        ),
    )


def test_changes_are_written_at_most_once_a_second(directory: StateDirectory) -> None:
    status = StatusFile(directory)
    status.connecting()
    status.connected(3)
    status.sampled(123.0)
    written = load_status(directory)
    assert written is not None
    assert written.link is LinkState.CONNECTING
    status.flush()
    written = load_status(directory)
    assert written is not None
    assert (written.link, written.epoch) == (LinkState.CONNECTED, 3)
    assert written.last_sample_at == 123.0


def test_errors_survive_a_restart(directory: StateDirectory) -> None:
    first = StatusFile(directory)
    first.waiting("nobody there")
    first.stopped()
    StatusFile(directory).connecting()
    written = load_status(directory)
    assert written is not None
    assert written.last_error == "nobody there"


def test_a_disk_that_is_gone_stops_nothing(directory: StateDirectory) -> None:
    status = StatusFile(directory)
    directory.path.rmdir()
    status.connecting()
    status.stopped()


def test_not_enrolled(directory: StateDirectory) -> None:
    report = read_report(directory)
    assert report.exit_code == 2
    assert "remotegpu-agent enroll" in report.as_text()
    assert json.loads(report.as_json())["enrolled"] is False


def test_connected(directory: StateDirectory) -> None:
    enrolled(directory)
    with directory.locked():
        status = StatusFile(directory)
        status.connected(1)
        status.inventoried(driver="READY", gpus=8)
        status.sampled(time.time() - 5)
        status.flush()
        report = read_report(directory)
    assert report.exit_code == 0
    shown = json.loads(report.as_json())
    assert shown["connected"] is True
    assert shown["machine_name"] == "node-1"
    assert shown["server"] == "https://gpu.example.org"
    assert 4 < shown["seconds_since_sample"] < 60
    assert "READY, 8 GPUs" in report.as_text()


def test_a_file_that_outlived_its_agent_is_not_believed(directory: StateDirectory) -> None:
    enrolled(directory)
    StatusFile(directory).connected(1)
    report = read_report(directory)
    assert report.exit_code == 1
    assert report.link == "not running"
    assert json.loads(report.as_json())["connected"] is False


def test_a_damaged_file_is_as_none(directory: StateDirectory) -> None:
    enrolled(directory)
    directory.write("status.json", b"{")
    assert read_report(directory).exit_code == 1
    StatusFile(directory).connecting()
    assert load_status(directory) is not None
