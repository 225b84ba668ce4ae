"""This very host, read for real, and files as other hosts have them."""

import os
import socket
from pathlib import Path

import psutil
import pytest

from remotegpu_agent.host import boot_id, cpu_model, host_name, read_host, smbios_uuid
from remotegpu_protocol.codec import encode
from remotegpu_protocol.inventory import Inventory


def test_this_host_describes_itself() -> None:
    host = read_host()
    assert host.hostname == socket.gethostname()
    assert host.cpu_count == os.cpu_count()
    assert host.memory_total == psutil.virtual_memory().total
    assert host.kernel == os.uname().release
    assert host.architecture == os.uname().machine
    assert host.operating_system
    encode(Inventory(revision=1, host=host, gpus=[]))


def test_the_boot_has_a_name() -> None:
    assert boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_a_host_name_is_safe_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "bad\x1b[31m\udcffname")
    assert host_name() == "bad [31m\ufffdname"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "4C4C4544-0042-3510-8053-B4C04F564432\n",
            "4c4c4544-0042-3510-8053-b4c04f564432",
        ),
        ("00000000-0000-0000-0000-000000000000\n", None),
        ("03000200-0400-0500-0006-000700080009\n", None),
        ("Not Specified\n", None),
        (None, None),
    ],
)
def test_a_hardware_uuid_that_identifies_nothing_is_none(
    tmp_path: Path, content: str | None, expected: str | None
) -> None:
    path = tmp_path / "product_uuid"
    if content is not None:
        path.write_text(content)
    assert smbios_uuid(path) == expected


def test_the_cpu_has_a_model(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: AMD EPYC 9654\x07 96-Core\nflags\t: a b\n")
    assert cpu_model(cpuinfo) == "AMD EPYC 9654  96-Core"
