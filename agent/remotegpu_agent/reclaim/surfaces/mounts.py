"""File systems that the user mounted, as FUSE lets users do."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from remotegpu_agent.mount_table import Mounted, read_table
from remotegpu_agent.mounting import detach
from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings
from remotegpu_agent.reclaim.surfaces.systemd import runtime_directory
from remotegpu_agent.reclaim.tenancy import FIRST_UID
from remotegpu_protocol.surfaces import Surface

_POLL: Final = 0.01


class Mounts(BlockingStep):
    """By the user id that FUSE writes into the options, which no user can choose; and what other
    users mounted in the account's home and runtime directory, where its owner let them."""

    surface = Surface.MOUNTS
    action = "unmounted"

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for point in self._points():
            findings.add(str(point))
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        # Another user may be renaming what such a place lies in: it is found at its new one then.
        while points := list(self._points()):
            for point in reversed(points):
                deadline.check()
                with contextlib.suppress(OSError):
                    detach(point)
            time.sleep(_POLL)

    def _points(self) -> Iterator[Path]:
        return (mount.point for mount in read_table() if self._has_to_go(mount))

    def _has_to_go(self, mount: Mounted) -> bool:
        if mount.user_id is None:
            return False
        places = (self.tenancy.home, runtime_directory(self.tenancy.uid))
        return self.tenancy.owns(mount.user_id) or (
            mount.user_id >= FIRST_UID
            and any(place in (mount.point, *mount.point.parents) for place in places)
        )
