"""What goes wrong on a host while it is cleaned: real obstacles, one for each place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tests.api.lifecycle.host import OwnHost

#: A mount that cannot be written to, and can again.
_READ_ONLY: Final = "mount -o remount,bind,ro {}"
_WRITABLE: Final = "mount -o remount,bind,rw {}"


@dataclass(frozen=True)
class Trouble:
    """`plant` leaves something of the user's (name $1, user id $2), `hinder` has its removal fail,
    `mend` undoes that. `driver`: what the driver says meanwhile."""

    plant: str
    hinder: str
    mend: str
    driver: Mapping[str, str | bytes | int]

    async def begin(self, host: OwnHost, account: str, uid: int) -> None:
        await host.shell(f"{self.plant}\n{self.hinder}", account, str(uid))
        host.driver.tell(dict(self.driver))

    async def end(self, host: OwnHost) -> None:
        await host.shell(self.mend)
        host.driver.forget(*self.driver)


def _trouble(
    plant: str = "true",
    hinder: str = "true",
    mend: str = "true",
    driver: Mapping[str, str | bytes | int] | None = None,
) -> Trouble:
    return Trouble(plant, hinder, mend, driver or {})


def _read_only(mount: str, plant: str) -> Trouble:
    return _trouble(plant, _READ_ONLY.format(mount), _WRITABLE.format(mount))


def _instead(program: str, other: str, plant: str = "true") -> Trouble:
    """Another program in the place of the host's."""
    return _trouble(plant, f"mount --bind {other} {program}", f"umount {program}")


#: A host that makes no accounts.
NO_USERADD: Final = _instead("/usr/sbin/useradd", "/bin/false")

#: By the surface that cannot be cleaned then.
TROUBLES: Final[Mapping[str, Trouble]] = {
    "temporary files": _read_only("/var/tmp", "touch /var/tmp/left; chown $2 /var/tmp/left"),  # noqa: S108 - on the host
    "GPU processes and memory": _trouble(driver={"card1.compute": "1:1048576"}),
    "account": _instead("/usr/sbin/userdel", "/bin/true"),
    "sign-in": _instead("/usr/sbin/usermod", "/bin/false", "usermod --unlock --expiredate '' $1"),
    "SSH keys": _trouble(
        "mkdir -p /home/$1/.ssh; echo key > /home/$1/.ssh/authorized_keys; chown -R $2 /home/$1",
        "mount --bind /home/$1/.ssh /home/$1/.ssh; mount -o remount,bind,ro /home/$1/.ssh",
        "umount /home/*/.ssh",
    ),
    "home directory": _trouble(
        "mkdir -p /home/$1/data; chown -R $2 /home/$1",
        "mount -t tmpfs tmpfs /home/$1/data",
        "umount /home/*/data",
    ),
    "lingering": _read_only("/var/lib/systemd", "touch /var/lib/systemd/linger/$1"),
    "core dumps": _read_only(
        "/var/lib/systemd",
        "touch /var/lib/systemd/coredump/core.x.$2.00000000000000000000000000000000.1.17.zst",
    ),
    "cron": _read_only(
        "/var/spool", "f=/var/spool/cron/crontabs/$1; echo '* * * * * x' > $f; chown $2 $f"
    ),
    "at jobs": _read_only(
        "/var/spool", "f=/var/spool/cron/atjobs/a0000101c8a2f; echo x > $f; chown $2 $f"
    ),
    "runtime directory": _trouble(
        # A file system of its own: in a copy of its parent the directory would not be read-only.
        "mountpoint -q /run/user || mount -t tmpfs -o mode=755 tmpfs /run/user\n"
        "mkdir -p /run/user/$2; chown $2 /run/user/$2",
        "mount -o remount,ro /run/user",
        "mount -o remount,rw /run/user",
    ),
    "POSIX message queues": _trouble(
        hinder="umount /dev/mqueue", mend="mount -t mqueue mqueue /dev/mqueue"
    ),
    "shared memory": _read_only("/dev/shm", "touch /dev/shm/left; chown $2 /dev/shm/left"),  # noqa: S108 - on the host
    "mail": _read_only("/var/mail", "echo x > /var/mail/$1"),
}
