"""Docker's containers, volumes, networks and images that carry the allocation's label."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings
from remotegpu_agent.reclaim.tools import run_tool

#: Everything that is made in Docker for an allocation carries it, with the allocation's id.
LABEL: Final = "io.remotegpu.allocation"
_SOCKETS: Final = (Path("/run/docker.sock"), Path("/var/run/docker.sock"))
#: How each kind is listed and removed, in an order in which nothing is in use any more.
_KINDS: Final = (
    ("container", ("container", "ls", "--all"), ("container", "rm", "--force", "--volumes")),
    ("volume", ("volume", "ls"), ("volume", "rm", "--force")),
    ("network", ("network", "ls"), ("network", "rm")),
    ("image", ("image", "ls", "--all"), ("image", "rm", "--force")),
)


class Containers(BlockingStep):
    """Containers without root are processes and files of the account, and go with those."""

    surface = "containers"
    timeout = 120.0

    def absence(self) -> str | None:
        return None if any(path.exists() for path in _SOCKETS) else "This host runs no Docker."

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for kind, name, _removal in self._objects(deadline):
            findings.add(f"{kind} {name}")
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        for _kind, name, removal in self._objects(deadline):
            run_tool("docker", *removal, "--", name, deadline=deadline)

    def _objects(self, deadline: Deadline) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        label = f"label={LABEL}={self.tenancy.allocation_id}"
        for kind, listing, removal in _KINDS:
            arguments = (*listing, "--quiet", "--filter", label)
            for name in sorted(set(run_tool("docker", *arguments, deadline=deadline).split())):
                yield kind, name, removal
