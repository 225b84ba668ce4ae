"""Which TCP ports something listens on, as the kernel says."""

from pathlib import Path
from typing import Final

_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
#: TCP_LISTEN in the kernel's include/net/tcp_states.h.
_LISTEN: Final = "0A"


def listening_ports() -> frozenset[int] | None:
    """None where the kernel does not tell."""
    ports: set[int] = set()
    told = False
    for table in _TABLES:
        try:
            lines = table.read_text("ascii", "replace").splitlines()[1:]
        except OSError:
            continue
        told = True
        for line in lines:
            # sl, local address, remote address, state, ... (proc_pid_net(5))
            words = line.split(None, 4)
            if len(words) > 3 and words[3] == _LISTEN:
                ports.add(int(words[1].rpartition(":")[2], 16))
    return frozenset(ports) if told else None
