"""Whether the agent sees the host, and not a view of its own in which everything looks clean."""

from pathlib import Path
from typing import Final

from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings, Obstacle
from remotegpu_agent.reclaim.walk import bare
from remotegpu_protocol.surfaces import Surface

_INIT: Final = Path("/proc/1")
_SELF: Final = Path("/proc/self")
#: Directories that a service manager may replace for a service.
_PLACES: Final = tuple(
    map(Path, ("tmp", "var/tmp", "dev/shm", "run", "home", "root", "etc", "var/spool"))
)
#: What is unmounted in a mount namespace of the agent's own stays mounted for everybody else.
#: `net` is left out: nothing of the network is cleaned yet.
_NAMESPACES: Final = ("ipc", "pid", "mnt")


class Vantage(BlockingStep):
    """Finds nothing and removes nothing; what it cannot see ends all proof."""

    surface = Surface.HOST_VIEW
    action = "checked"
    needed_by_all = True

    def look_now(self, deadline: Deadline) -> Findings:
        for name in _NAMESPACES:
            if (_INIT / "ns" / name).stat().st_ino != (_SELF / "ns" / name).stat().st_ino:
                raise Obstacle(
                    f"The agent has a {name} namespace of its own and does not see the host's. "
                    "Loosen its unit as deploy/remotegpu-agent.service.d/cleaning.conf does."
                )
        # Raises Obstacle: files cannot be seen without what users mount among them.
        with bare(Path("/tmp").resolve()):  # noqa: S108 - a directory that every host has
            pass
        for place in _PLACES:
            if _identity(Path("/") / place) != _identity(_INIT / "root" / place):
                raise Obstacle(
                    f"The agent has a /{place} of its own and does not see the host's. Loosen its "
                    "unit as deploy/remotegpu-agent.service.d/cleaning.conf does."
                )
        return Findings()

    def remove_now(self, deadline: Deadline) -> None:
        """Nothing is ever there."""


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
