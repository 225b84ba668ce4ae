"""The host's own policy: what its owner lets the control plane do. Nothing without one."""

import os
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, Protocol

import msgspec
from msgspec import Meta, Struct

from remotegpu_agent.reclaim.scratch_disk import ScratchDisk
from remotegpu_protocol.datasets import SourceKind, check_location
from remotegpu_protocol.grammar import clean_text, shorten
from remotegpu_protocol.inventory import Policy
from remotegpu_protocol.kinds import ACCOUNT_KEYS, DATASET_MOUNT, KINDS
from remotegpu_protocol.limits import MAX_ENABLED_KINDS

DEFAULT_PATH: Final = Path("/etc/remotegpu/policy.toml")

_MAX_BYTES: Final = 64 * 1024
_OTHERS_WRITE: Final = 0o022

#: One port, or the first and the last of a range. Lower ones belong to the system.
Port = Annotated[int, Meta(ge=1024, le=65535)]
PortRange = Annotated[list[Port], Meta(min_length=2, max_length=2)]
#: First and last user id of accounts that the agent makes: above those of people and the system's.
Uid = Annotated[int, Meta(ge=1000, le=4_000_000_000)]
UidRange = tuple[Uid, Uid]
SHELL: Final = r"^(/[A-Za-z0-9._-]+)+\Z"
#: As `useradd` takes it.
Account = Annotated[str, Meta(pattern=r"^[a-z_][a-z0-9_-]{0,31}\Z")]


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    commands: Annotated[list[str], Meta(max_length=MAX_ENABLED_KINDS)] = []
    mount_roots: Annotated[list[str], Meta(max_length=64)] = []
    nfs_exports: Annotated[list[str], Meta(max_length=64)] = []
    accounts: Annotated[list[Account], Meta(max_length=1024)] = []
    ports: Annotated[list[Port | PortRange], Meta(max_length=64)] = []
    cleaning: bool = False
    gpu_permissions: bool = False
    scratch: Annotated[list[ScratchDisk], Meta(max_length=64)] = []
    account_uids: UidRange = (30_000, 39_999)
    account_shell: Annotated[str, Meta(pattern=SHELL)] = "/bin/bash"


@dataclass(frozen=True, slots=True)
class LocalPolicy:
    """What is allowed. `message`: why a file that is there is not obeyed."""

    commands: frozenset[str] = frozenset()
    #: Directories that may be mounted, and those below them.
    mount_roots: tuple[PurePosixPath, ...] = ()
    #: The same of NFS servers.
    nfs_exports: tuple[str, ...] = ()
    accounts: frozenset[str] = frozenset()
    ports: tuple[range, ...] = ()
    #: Whether what an allocation leaves may be removed: its account, processes and files.
    cleaning: bool = False
    #: Whether the device files of GPUs are kept, so that an account opens those that it has.
    gpu_permissions: bool = False
    #: Erased after who had the whole host.
    scratch: tuple[ScratchDisk, ...] = ()
    account_uids: range = range(30_000, 40_000)
    account_shell: str = "/bin/bash"
    simulated: bool = False
    message: str | None = None
    #: Where it comes from, for messages.
    source: str = str(DEFAULT_PATH)

    def as_reported(self) -> Policy | None:
        """As the inventory tells it; None while there is no policy."""
        if not (self.commands or self.message or self.simulated):
            return None
        commands = self.commands
        if not (self.cleaning or self.simulated):
            # Nothing would unmount at the end, so mounting is refused: told before anybody asks.
            commands -= {DATASET_MOUNT.name}
        return Policy(sorted(commands), self.simulated, self.message)


class PolicySource(Protocol):
    """Read anew for every decision, so that a change takes effect at once."""

    def read(self) -> LocalPolicy: ...


class SimulatedPolicy:
    """A simulated host only pretends, so it may be asked for anything."""

    def read(self) -> LocalPolicy:
        return LocalPolicy(commands=frozenset(KINDS), simulated=True, source="simulation")


class PolicyFile:
    """A TOML file that nobody but `owner` (a user id: root's) can write.

    One that others could have written, or that is not understood as a whole, allows nothing.
    """

    def __init__(self, path: Path = DEFAULT_PATH, *, owner: int = 0) -> None:
        self._path = path
        self._owner = owner

    def read(self) -> LocalPolicy:
        try:
            content = self._content()
            return self._parsed(content)
        except FileNotFoundError:
            return LocalPolicy(source=str(self._path))
        except OSError as error:
            return self._refused(f"it cannot be read: {error.strerror or error}")
        except (_Unsafe, ValueError) as error:
            return self._refused(str(error))

    def _content(self) -> str:
        self._check("the directory of it", self._path.parent.stat(), "chown root:root, chmod 755")
        # Not blocking: a pipe in its place must not hold the agent up.
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise _Unsafe("it is not a file")
            self._check("it", found, "chown root:root, chmod 644")
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise _Unsafe(f"it is larger than {_MAX_BYTES} bytes")
        return content.decode()

    def _check(self, what: str, found: os.stat_result, advice: str) -> None:
        if found.st_uid != self._owner:
            raise _Unsafe(f"{what} belongs to user {found.st_uid}, not to {self._owner}: {advice}")
        if found.st_mode & _OTHERS_WRITE:
            mode = stat.S_IMODE(found.st_mode)
            raise _Unsafe(f"{what} can be written by others (mode {mode:o}): {advice}")

    def _parsed(self, content: str) -> LocalPolicy:
        # tomllib's and msgspec's errors are ValueErrors, and say where.
        file = msgspec.convert(tomllib.loads(content), type=_File)
        unknown = sorted(set(file.commands) - set(KINDS))
        if unknown:
            raise ValueError(
                f"it allows {shorten(', '.join(unknown))}, which this agent does not know; it knows "
                f"{', '.join(KINDS)}"
            )
        if file.gpu_permissions and ACCOUNT_KEYS.name not in file.commands:
            raise ValueError(
                f"gpu_permissions needs {ACCOUNT_KEYS.name} among the commands: without accounts of "
                "allocations nobody could open a GPU"
            )
        return LocalPolicy(
            commands=frozenset(file.commands),
            mount_roots=tuple(_mount_root(root) for root in file.mount_roots),
            nfs_exports=tuple(check_location(SourceKind.NFS, one) for one in file.nfs_exports),
            accounts=frozenset(_account(name) for name in file.accounts),
            ports=tuple(_ports(ports) for ports in file.ports),
            cleaning=file.cleaning,
            gpu_permissions=file.gpu_permissions,
            scratch=tuple(file.scratch),
            account_uids=_uids(file.account_uids),
            account_shell=file.account_shell,
            source=str(self._path),
        )

    def _refused(self, reason: str) -> LocalPolicy:
        message = clean_text(f"{self._path} is not obeyed: {reason}.", 2000)
        return LocalPolicy(message=message, source=str(self._path))


class _Unsafe(Exception):
    pass


def _mount_root(root: str) -> PurePosixPath:
    path = PurePosixPath(root)
    if not path.is_absolute() or ".." in path.parts or len(path.parts) < 2 or "\0" in root:
        raise ValueError(
            f"expected mount_roots to be absolute paths below / without '..', got {shorten(root)!r}"
        )
    return path


def _account(name: str) -> str:
    if name == "root":
        raise ValueError("accounts may not hold root")
    return name


def _uids(given: tuple[int, int]) -> range:
    first, last = given
    if first > last:
        raise ValueError(f"expected [first, last] in account_uids, got [{first}, {last}]")
    return range(first, last + 1)


def _ports(ports: int | list[int]) -> range:
    first, last = (ports, ports) if isinstance(ports, int) else ports
    if first > last:
        raise ValueError(f"expected [first, last] in ports, got [{first}, {last}]")
    return range(first, last + 1)
