"""Where a data set comes from, as the host reaches it."""

import asyncio
import socket
from abc import ABC, abstractmethod
from typing import ClassVar, Final

from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_agent.datasets.records import MountRecord
from remotegpu_agent.dial import racing

#: Seconds within which a name must resolve and a port answer.
_REACH: Final = 5.0


class Source(ABC):
    """`check` changes nothing; `attach` mounts at the place of `record`, which exists and is
    root's.

    `kinds`: the file systems as which such a source may appear in the mount table; None: any.
    """

    kinds: ClassVar[frozenset[str] | None] = None

    def __init__(self, record: MountRecord) -> None:
        self.record = record

    @abstractmethod
    async def check(self) -> None:
        """Raises CommandFailed: it cannot be mounted, and why."""

    @abstractmethod
    def attach(self) -> None:
        """Raises CommandFailed, OSError: it is not mounted."""

    def lives(self) -> bool:
        """Whether what serves the mount, beside the kernel, still runs."""
        return True


async def reach(host: str, port: int) -> None:
    """Raises CommandFailed: the host has no address, or nothing answers at the port."""
    what = f"{host} port {port}"
    try:
        async with asyncio.timeout(_REACH):
            _, writer = await asyncio.open_connection(host, port, **racing())
    except TimeoutError:
        reason = f"no answer within {_REACH:g} s"
    except socket.gaierror as error:
        reason = error.strerror or "the name does not resolve"
    except OSError as error:
        reason = error.strerror or str(error)
    else:
        writer.close()
        return
    raise CommandFailed(
        "SOURCE_UNREACHABLE", f"This host does not reach {what}: {reason}. Check name and network."
    )
