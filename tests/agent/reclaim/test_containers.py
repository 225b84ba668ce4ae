"""A real dockerd, with its own network, on a host that systemd booted."""

import json
from pathlib import Path

import pytest

from remotegpu_agent.reclaim.engine import Engine
from remotegpu_agent.reclaim.surfaces.containers import LABEL, Containers
from remotegpu_agent.reclaim.tenancy import Account, Tenancy
from remotegpu_protocol.kinds import CleanedSurface
from tests.agent.reclaim.isolation import require_isolation
from tests.agent.reclaim.tenant import tool
from tests.services.programs import find_program

pytestmark = pytest.mark.booted

#: What images are made of, on the host of the test.
_TAR = Path("/run/image.tar")
_WAITS = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"


def docker(*arguments: str) -> str:
    return tool("docker", *arguments).strip()


def start_docker(folder: Path) -> None:
    """With one image, \"waits\", made of one static program."""
    require_isolation()
    find_program("dockerd", package="docker.io")
    data = Path("/var/lib/docker")
    data.mkdir(exist_ok=True)
    # What this machine has is not looked at; and its overlays do not lie on the one of this host.
    tool("mount", "-t", "tmpfs", "tmpfs", str(data))
    tool("systemctl", "start", "docker.service")
    root = folder / "image"
    root.mkdir()
    tool("gcc", "-static", "-x", "c", "-o", str(root / "waits"), "-", text=_WAITS)
    tool("tar", "-C", str(root), "-cf", str(_TAR), "waits")
    docker("import", str(_TAR), "waits")


def plant(allocation: str, images: int) -> None:
    """Of every kind, and as hard to get rid of as it may be."""
    label = f"{LABEL}={allocation}"
    docker("network", "create", "--label", label, f"net-{allocation}")
    docker("volume", "create", "--label", label, f"volume-{allocation}")
    run = ("run", "--detach", "--label", label)
    docker(*run, "--restart=always", "--name", f"one-{allocation}", "waits", "/waits")
    docker(
        *run,
        f"--network=net-{allocation}",
        f"--volume=volume-{allocation}:/data",
        "waits",
        "/waits",
    )
    docker("pause", docker(*run, "--volume=/anonymous", "waits", "/waits"))
    docker(*run, "--rm", "--pid=host", "waits", "/waits")
    docker("create", "--label", label, "waits", "/waits")
    # Images of images: the first cannot go before the others.
    docker("import", "--change", f"LABEL {label}", str(_TAR), f"image-{allocation}:0")
    for number in range(images - 1):
        made = docker("create", f"image-{allocation}:{number}", "/waits")
        docker("commit", made, f"image-{allocation}:{number + 1}")
        docker("rm", made)
    docker("tag", f"image-{allocation}:0", f"other-name-{allocation}")


def present(allocation: str) -> list[str]:
    """What of each kind carries the label, as its own description says."""
    found: list[str] = []
    for kind, everything in (
        ("container", "--all"),
        ("volume", ""),
        ("network", ""),
        ("image", "--all"),
    ):
        names = docker(kind, "ls", "--quiet", *filter(None, [everything])).split()
        for thing in json.loads(docker(kind, "inspect", *sorted(set(names)))) if names else []:
            labels = thing.get("Config", thing).get("Labels") or {}
            if labels.get(LABEL) == allocation:
                found.append(f"{kind} {thing['Id' if kind != 'volume' else 'Name']}")
    return found


async def clean(allocation: str, patience: float | None = None) -> CleanedSurface:
    step = Containers(Tenancy(allocation, Account("rg-ada", 20001, "/home/rg-ada"), []))
    if patience is not None:
        step.timeout = patience  # type: ignore[misc]  # of this one alone

    async def report(_progress: object) -> None:
        pass

    return (await Engine([step], pause=0.01).run(report)).items[0]


async def test_of_an_allocation_all_and_nothing_else(tmp_path: Path) -> None:
    start_docker(tmp_path)
    plant("a1", images=4)
    plant("a10", images=1)
    docker("create", "--name=guest", "--volume=volume-a10:/data", "waits", "/waits")
    kept = present("a10")
    assert (len(present("a1")), len(kept)) == (11, 8)
    found = await clean("a1")
    assert (found.verified, found.found, found.removed) == (True, 11, 11), found
    assert present("a1") == []
    assert present("a10") == kept
    # With the container went its anonymous volume; the other's is there.
    assert len(docker("volume", "ls", "--quiet").split()) == 2
    again = await clean("a1")
    assert (again.verified, again.found) == (True, 0)

    # What somebody else still uses is said, and the rest removed.
    stuck = await clean("a10")
    assert (stuck.verified, stuck.found, stuck.removed) == (False, 8, 7)
    assert "volume is in use" in (stuck.detail or "")
    assert present("a10") == ["volume volume-a10"]

    # One that hangs, and one that is away, whose containers it would start again.
    tool("systemctl", "kill", "--signal=STOP", "docker.service")
    hanging = await clean("a10", 0.5)
    assert (hanging.verified, hanging.removed) == (False, 0)
    assert "took longer than 0.5 s" in (hanging.detail or "")
    tool("systemctl", "kill", "--signal=CONT", "docker.service")
    tool("systemctl", "stop", "docker.service", "docker.socket")
    tool("rm", "--force", "/run/docker.sock")
    away = await clean("a10")
    assert (away.verified, away.removed) == (False, 0)
    assert "Cannot connect to the Docker daemon" in (away.detail or "")
    tool("systemctl", "start", "docker.service")
    docker("rm", "--force", "guest")
    assert (await clean("a10")).verified
    assert present("a10") == []
