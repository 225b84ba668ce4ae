"""Many simulated hosts in a process of their own: real agents, each with a key, a state directory, a
journal and a link."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from remotegpu_agent.agent import Agent, AgentTimes
from remotegpu_agent.backoff import Pauses
from remotegpu_agent.commands.desk import CommandDesk
from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.policy import SimulatedPolicy
from remotegpu_agent.commands.registry import make_handlers
from remotegpu_agent.identity import HostKey, Identity
from remotegpu_agent.logs import configure_logs
from remotegpu_agent.sources.choose import (
    SourceKind,
    SourceSettings,
    make_presented,
    make_source,
)
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_agent.status import StatusFile
from remotegpu_core.clock import now_ms
from remotegpu_core.models import Machine
from remotegpu_protocol.kinds import ACCOUNT_KEYS, AccountKeys, read_arguments
from tests.forking import CONTEXT

_SETTINGS: Final = SourceSettings(SourceKind.SIMULATED, simulated_gpus=1)
#: Dialled over some seconds: they all begin at once on two cores.
_TIMES: Final = AgentTimes(pauses=Pauses(first_low=0.1, first_high=1.0, cap=2.0, permanent=2.0))


@dataclass(frozen=True)
class SimulatedHost:
    """Nothing in it but what a new process takes along."""

    name: str
    machine_id: str
    secret: bytes
    folder: Path

    @classmethod
    async def make(cls, folder: Path, name: str) -> "SimulatedHost":
        """Enrol it, within the open database."""
        key = HostKey.generate()
        machine = await Machine.create(
            name=name, name_key=name, public_key=key.public_key, created_at=now_ms()
        )
        StateDirectory(folder / name).create()
        return cls(name, str(machine.id), key.secret(), folder / name)

    def agent(self, origin: str) -> Agent:
        key, state, disk, policy = (
            HostKey(self.secret),
            StateDirectory(self.folder),
            DiskThread(),
            SimulatedPolicy(),
        )
        source = make_source(_SETTINGS, key)
        handlers = make_handlers(state, disk, policy, source, simulated=True)
        return Agent(
            Identity(key=key, machine_id=self.machine_id, machine_name=self.name, origin=origin),
            source,
            StatusFile(state),
            CommandDesk(state, handlers, policy, disk=disk),
            presented=make_presented(_SETTINGS, key, self.name),
            times=_TIMES,
        )

    def told(self) -> list[list[str]]:
        """The keys of each command in its journal that it did, in order; for a host that is off."""
        with closing(sqlite3.connect(self.folder / "journal.db")) as journal:
            rows = journal.execute(
                "SELECT arguments FROM command WHERE kind = ? AND state = 'ENDED' "
                "ORDER BY sequence",
                (ACCOUNT_KEYS.name,),
            ).fetchall()
        found = [read_arguments(ACCOUNT_KEYS.name, arguments) for (arguments,) in rows]
        return [list(keys.keys) for keys in found if isinstance(keys, AccountKeys)]


def _live(hosts: Sequence[SimulatedHost], origin: str) -> None:
    configure_logs("error", "console")

    async def forever() -> None:
        await asyncio.gather(*(host.agent(origin).run() for host in hosts))

    asyncio.run(forever())


@asynccontextmanager
async def running(hosts: Sequence[SimulatedHost], origin: str) -> AsyncIterator[None]:
    """As long as the block takes, in two processes."""
    half = (len(hosts) + 1) // 2
    processes = [
        CONTEXT.Process(target=_live, args=(part, origin)) for part in (hosts[:half], hosts[half:])
    ]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            await asyncio.to_thread(process.join, 20)
