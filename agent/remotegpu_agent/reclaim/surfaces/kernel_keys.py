"""Secrets that a user gave the kernel to keep, such as Kerberos tickets: keyrings(7)."""

import os
from pathlib import Path
from typing import Final

from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings, Obstacle
from remotegpu_agent.reclaim.tools import run_python
from remotegpu_protocol.surfaces import Surface

_USERS: Final = Path("/proc/key-users")
#: Number of keyctl(2), for which C libraries have no function.
_KEYCTL: Final = {"x86_64": 250, "aarch64": 219}
#: Becomes the user, whose keyrings nobody else can open, and prints how many keys are in them.
_PROGRAM: Final = """
import ctypes, os, sys

REVOKE, UNLINK, READ, GET_PERSISTENT = 3, 9, 11, 22
PROCESS, USER, USER_SESSION = -2, -4, -5
uid, number, empties = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "empty"
os.setgroups([])
os.setgid(65534)
os.setuid(uid)
libc = ctypes.CDLL(None, use_errno=True)

def keyctl(*arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def keys(ring):
    size = keyctl(READ, ring, None, 0)
    buffer = (ctypes.c_int32 * (size // 4 + 1))()
    size = min(keyctl(READ, ring, buffer, ctypes.sizeof(buffer)), ctypes.sizeof(buffer))
    return buffer[: size // 4]

count = 0
user = keyctl(0, USER, 1)
rings = [USER, USER_SESSION]
try:
    rings.append(keyctl(GET_PERSISTENT, -1, PROCESS))
except OSError:
    pass  # This kernel has none.
for ring in rings:
    # The session's always holds the user's.
    found = [key for key in keys(ring) if key != user]
    count += len(found)
    if empties:
        for key in found:
            try:
                # Another user may have it in a keyring too.
                keyctl(REVOKE, key)
            except OSError:
                pass
            keyctl(UNLINK, key, ring)
print(count)
"""


class KernelKeys(BlockingStep):
    """Kept by user id, after the last process has ended and for whoever has the id next."""

    surface = Surface.KERNEL_KEYS

    def absence(self) -> str | None:
        return None if _USERS.exists() else "This kernel keeps no keys."

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for number in range(self._keyrings("look", deadline)):
            findings.add(f"key {number + 1}")
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        self._keyrings("empty", deadline)

    def _keyrings(self, what: str, deadline: Deadline) -> int:
        machine = os.uname().machine
        if machine not in _KEYCTL:
            raise Obstacle(f"The agent does not know how kernels of {machine} keep keys.")
        return int(
            run_python(
                *(_PROGRAM, str(self.tenancy.uid), str(_KEYCTL[machine]), what), deadline=deadline
            )
        )
