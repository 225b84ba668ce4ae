"""File systems that the user mounted, as FUSE lets users do."""

from collections.abc import Iterator
from pathlib import Path

from remotegpu_agent.mount_table import read_table
from remotegpu_agent.mounting import detach
from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings
from remotegpu_protocol.surfaces import Surface


class Mounts(BlockingStep):
    """By the user id that FUSE writes into the options, which no user can choose."""

    surface = Surface.MOUNTS
    action = "unmounted"

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for point in self._points():
            findings.add(str(point))
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        for point in reversed(list(self._points())):
            detach(point)

    def _points(self) -> Iterator[Path]:
        for mount in read_table():
            if mount.kind.partition(".")[0] in {"fuse", "fuseblk"}:
                for option in mount.options:
                    name, _, value = option.partition("=")
                    if name == "user_id" and value.isdecimal() and self.tenancy.owns(int(value)):
                        yield mount.point
