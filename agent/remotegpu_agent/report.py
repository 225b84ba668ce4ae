"""What `status` says."""

import time
from dataclasses import dataclass

import msgspec

from remotegpu_agent.errors import EXIT_FAILED, EXIT_NOT_ENROLLED, EXIT_OK, NotEnrolled
from remotegpu_agent.identity import Identity, load_identity
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_agent.status import CommandStatus, LinkState, Status, load_status


@dataclass(frozen=True, slots=True)
class Report:
    """`running` tells whether an agent holds the state directory: a file outlives a process."""

    directory: str
    identity: Identity | None
    status: Status | None
    running: bool
    now: float

    @property
    def connected(self) -> bool:
        return self.running and self.status is not None and self.status.link is LinkState.CONNECTED

    @property
    def exit_code(self) -> int:
        if self.identity is None:
            return EXIT_NOT_ENROLLED
        return EXIT_OK if self.connected else EXIT_FAILED

    @property
    def link(self) -> str:
        if not self.running or self.status is None:
            return "not running"
        return self.status.link.value

    def as_json(self) -> str:
        identity, status = self.identity, self.status
        return msgspec.json.format(
            msgspec.json.encode(
                {
                    "enrolled": identity is not None,
                    "state_directory": self.directory,
                    "machine_id": identity.machine_id if identity else None,
                    "machine_name": identity.machine_name if identity else None,
                    "server": identity.origin if identity else None,
                    "running": self.running,
                    "connected": self.connected,
                    "link": self.link,
                    "link_since": status.since if status and self.running else None,
                    "last_connected_at": status.last_connected_at if status else None,
                    "last_error": status.last_error if status else None,
                    "last_error_at": status.last_error_at if status else None,
                    "seconds_since_sample": self._since(status.last_sample_at if status else None),
                    "driver_state": status.driver if status else None,
                    "gpus": status.gpus if status else None,
                    "commands": status.commands if status else None,
                }
            )
        ).decode()

    def as_text(self) -> str:
        if self.identity is None:
            return (
                f"Not enrolled ({self.directory} holds no identity).\n"
                "Get a token from the control plane and run: "
                "remotegpu-agent enroll --server URL --token TOKEN"
            )
        lines = [
            ("machine", f"{self.identity.machine_name} ({self.identity.machine_id})"),
            ("server", self.identity.origin),
            ("link", self.link),
        ]
        status = self.status
        if status is not None:
            lines += [
                ("last connect", self._ago(status.last_connected_at)),
                ("last sample", self._ago(status.last_sample_at)),
                ("driver", f"{status.driver or 'not read yet'}, {status.gpus or 0} GPUs"),
            ]
            if status.commands is not None:
                lines.append(("commands", _commands(status.commands)))
                if status.commands.damaged is not None:
                    lines.append(("records", status.commands.damaged))
            if status.last_error is not None:
                lines.append(
                    ("last error", f"{self._ago(status.last_error_at)}: {status.last_error}")
                )
        return "\n".join(f"{name:<13} {value}" for name, value in lines)

    def _since(self, moment: float | None) -> float | None:
        return None if moment is None else round(max(0.0, self.now - moment), 1)

    def _ago(self, moment: float | None) -> str:
        seconds = self._since(moment)
        if seconds is None:
            return "never"
        for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
            if seconds >= 2 * size:
                return f"{seconds // size:.0f} {unit} ago"
        return f"{seconds:.0f} s ago"


def _commands(commands: CommandStatus) -> str:
    if commands.trouble is not None:
        return f"none taken: {commands.trouble}"
    if not commands.allowed:
        return "none allowed, this host is monitored only"
    return (
        f"{', '.join(commands.allowed)} allowed; {commands.running} running, {commands.waiting} "
        f"waiting, {commands.unacknowledged} events to acknowledge"
    )


def read_report(directory: StateDirectory) -> Report:
    """Raises StateDirectoryError where the directory is not for this user to read."""
    try:
        identity = load_identity(directory)
    except NotEnrolled:
        return Report(str(directory.path), None, None, running=False, now=time.time())
    return Report(
        str(directory.path),
        identity,
        load_status(directory),
        running=directory.in_use(),
        now=time.time(),
    )
