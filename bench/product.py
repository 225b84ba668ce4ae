"""RemoteGPU itself, as `remotegpu serve` runs it, with machines enrolled and a viewer signed in."""

import asyncio
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from bench.server import Server, python_module, running_server
from bench.workspace import Workspace
from remotegpu_agent.identity import HostKey
from remotegpu_core.actor import SYSTEM
from remotegpu_core.control_plane import control_plane
from remotegpu_core.services.enrollments import create_enrollment, redeem
from remotegpu_core.services.sign_in import sign_in
from remotegpu_core.settings import Settings, load_settings
from remotegpu_protocol.messages import Enroll
from tests.services.ports import unused_port

_PASSWORD: Final = "bench-Passw0rd-1"  # noqa: S105 - of a server that lives for a minute

#: As many as can be enrolled while a server runs.
REAL_AGENTS: Final = 20


@dataclass(frozen=True, slots=True)
class Host:
    machine_id: uuid.UUID
    key: HostKey


@dataclass(frozen=True, slots=True)
class Product:
    """`token` is an admin's, good for queries and subscriptions; each of `spare_tokens` enrols one host."""

    server: Server
    origin: str
    token: str
    spare_tokens: list[str]
    hosts: list[Host]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a server needs to find in its directory, and who is in it."""

    folder: Path
    token: str
    spare_tokens: list[str]
    hosts: list[Host]


_prepared: dict[Path, Prepared] = {}


@contextmanager
def running_product(
    workspace: Workspace, *, hosts: int = 1, unthrottled: bool = False, frame_path: bool = True
) -> Iterator[Product]:
    """Serve on an SQLite database of its own and the workspace's Redis.

    `unthrottled` lifts the limit on an agent's messages (`bench.unthrottled` says why).
    """
    prepared = _prepare(workspace, hosts)
    port = unused_port()
    origin = f"http://127.0.0.1:{port}"
    folder = workspace.folder / f"product-{port}"
    shutil.copytree(prepared.folder, folder)
    environment = {
        "REMOTEGPU_FRAME_PATH": str(frame_path).lower(),
        "REMOTEGPU_DATA_DIR": str(folder),
        "REMOTEGPU_REDIS_URL": workspace.redis.url,
        "REMOTEGPU_PORT": str(port),
        "REMOTEGPU_PUBLIC_URL": origin,
        "REMOTEGPU_LOG_LEVEL": "warning",
        # Counted as ever, and never met: one client asks here for as much as it gets.
        "REMOTEGPU_RATE_REQUESTS": "1000000000",
        "REMOTEGPU_RATE_COST": "1000000000000",
        "REMOTEGPU_RATE_TIME": "0",
    }
    program: list[str | Path] = [Path(sys.executable).with_name("remotegpu")]
    if unthrottled:
        program = python_module("bench.unthrottled")
    with running_server(
        "RemoteGPU", [*program, "serve"], workspace.folder, port=port, environment=environment
    ) as server:
        yield Product(server, origin, prepared.token, prepared.spare_tokens, prepared.hosts)


def _prepare(workspace: Workspace, count: int) -> Prepared:
    """A state directory with `count` machines, made once and copied for each server."""
    folder = workspace.folder / f"prepared-{count}"
    if folder not in _prepared:
        # To migrate takes longer than to enrol a hundred hosts: done once in a run.
        migrated = workspace.folder / "migrated"
        if not migrated.exists():
            asyncio.run(_migrate(_settings(workspace, migrated)))
        shutil.copytree(migrated, folder)
        _prepared[folder] = asyncio.run(_set_up(_settings(workspace, folder), folder, count))
    return _prepared[folder]


def _settings(workspace: Workspace, folder: Path) -> Settings:
    return load_settings(
        data_dir=folder,
        redis_url=workspace.redis.url,
        admin_password=SecretStr(_PASSWORD),
        enrollment_lifetime=24 * 3600,
        log_level="warning",
    )


async def _migrate(settings: Settings) -> None:
    async with control_plane(settings):
        pass


async def _set_up(settings: Settings, folder: Path, count: int) -> Prepared:
    async with control_plane(settings):
        hosts = [await _enroll(settings, number) for number in range(count)]
        spare_tokens = [
            (await create_enrollment(SYSTEM, settings, machine_name=f"bench-agent-{number}"))[0]
            for number in range(REAL_AGENTS)
        ]
        signed_in = await sign_in(settings, "admin", _PASSWORD, source_address=None)
        return Prepared(folder, signed_in.token, spare_tokens, hosts)


async def _enroll(settings: Settings, number: int) -> Host:
    key = HostKey.generate()
    token, _ = await create_enrollment(SYSTEM, settings, machine_name=f"bench-{number:05d}")
    enroll = Enroll(
        token=token,
        public_key=key.public_key,
        origin=settings.origin,
        versions=[1],
        # The gateway checks signatures; this goes past it, to the service behind.
        signature=bytes(64),
        agent_version="bench",
        hostname=f"bench-{number:05d}",
    )
    machine = await redeem(enroll, source_address=None)
    return Host(machine.id, key)
