"""What programs of another user do to keep a user's things from going. Arguments: the other's user id,
the user's one, the user's program, and the key of the user's memory and queue. Runs until it is killed.
"""

import contextlib
import ctypes
import os
import sys
import time

_KEYCTL = {"x86_64": 250, "aarch64": 219}
_LINK, _USER_KEYRING = 8, -4

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
uid, program, queue, segment, key = sys.argv[1:]


def start_without_waiting(descriptor: int) -> None:
    """The user's program, as the user. It is never waited for, so that it stays a zombie."""
    if os.fork() == 0:
        for number in range(3):
            os.dup2(os.open("/dev/null", os.O_RDWR), number)
        with contextlib.suppress(OSError):
            os.execve(descriptor, ["sleep", "3600"], {})  # noqa: S606 - the program is a descriptor
        os._exit(1)


def main() -> None:
    """Prints a line when all has begun."""
    os.setgroups([])
    os.setgid(int(uid))
    os.setuid(int(uid))
    assert libc.shmat(int(segment), None, 0) != ctypes.c_void_p(-1).value
    assert libc.mq_open(queue.encode(), os.O_RDWR) >= 0
    number = _KEYCTL[os.uname().machine]
    assert libc.syscall(number, _LINK, int(key), _USER_KEYRING) == 0, os.strerror(
        ctypes.get_errno()
    )
    descriptor = os.open(program, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    start_without_waiting(descriptor)
    time.sleep(0.2)
    os.write(1, b"here\n")
    for _ in range(1000):
        # Before and after the user's program was removed.
        start_without_waiting(descriptor)
        time.sleep(0.1)


if __name__ == "__main__":
    main()
