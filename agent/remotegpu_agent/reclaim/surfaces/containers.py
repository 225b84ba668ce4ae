"""Docker's containers, volumes, networks and images that carry the allocation's label."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings, Obstacle
from remotegpu_agent.reclaim.tools import run_tool
from remotegpu_protocol.surfaces import Surface

#: Everything that is made in Docker for an allocation carries it, with the allocation's id.
LABEL: Final = "io.remotegpu.allocation"
_SOCKETS: Final = (Path("/run/docker.sock"), Path("/var/run/docker.sock"))
_SETTINGS: Final = Path("/etc/docker/daemon.json")
_DATA: Final = "/var/lib/docker"


@dataclass(frozen=True)
class _Kind:
    """How it is listed and removed."""

    name: str
    listing: tuple[str, ...]
    removal: tuple[str, ...]


#: In an order in which nothing is in use any more.
_KINDS: Final = (
    _Kind("container", ("container", "ls", "--all"), ("container", "rm", "--force", "--volumes")),
    _Kind("volume", ("volume", "ls"), ("volume", "rm", "--force")),
    _Kind("network", ("network", "ls"), ("network", "rm")),
    _Kind("image", ("image", "ls", "--all"), ("image", "rm", "--force")),
)


class Containers(BlockingStep):
    """Containers without root are processes and files of the account, and go with those."""

    surface = Surface.CONTAINERS
    timeout = 120.0

    def absence(self) -> str | None:
        # One that is only stopped has kept its containers, and starts them again.
        if any(path.exists() for path in _SOCKETS) or _has_data():
            return None
        return "This host runs no Docker."

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for kind in _KINDS:
            for name in self._objects(kind, deadline):
                findings.add(f"{kind.name} {name}")
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        reasons = [reason for kind in _KINDS for reason in self._remove_all(kind, deadline)]
        if reasons:
            raise Obstacle(reasons[0])

    def _remove_all(self, kind: _Kind, deadline: Deadline) -> list[str]:
        """Why some could not be removed. Images are removed after those made from them."""
        before: list[str] = []
        reasons: list[str] = []
        while (names := self._objects(kind, deadline)) and names != before:
            before, reasons = names, []
            for name in names:
                try:
                    run_tool("docker", *kind.removal, "--", name, deadline=deadline)
                except Obstacle as error:
                    reasons.append(error.message)
        return reasons if names else []

    def _objects(self, kind: _Kind, deadline: Deadline) -> list[str]:
        label = f"label={LABEL}={self.tenancy.allocation_id}"
        said = run_tool("docker", *kind.listing, "--quiet", "--filter", label, deadline=deadline)
        return sorted(set(said.split()))


def _has_data() -> bool:
    try:
        return any(_data_root().iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _data_root() -> Path:
    try:
        settings = json.loads(_SETTINGS.read_bytes())
    except (FileNotFoundError, ValueError):
        return Path(_DATA)
    return Path(str(settings.get("data-root", _DATA)) if isinstance(settings, dict) else _DATA)
