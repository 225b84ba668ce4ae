"""The blocks of code in docs/clients.md, as files that can be run, and what they run against."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.api.host import enrolled, sampling
from tests.api.plane import Server
from tests.api.viewer import PATIENCE
from tests.services.node import CLIENTS

LATEST: Final = "query Latest($id: ID!) { machine(id: $id) { latestMetrics { sampledAt } } }"

_DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "clients.md"
_BLOCK: Final = re.compile(r"^```\w+ (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def recipes() -> dict[str, str]:
    """Each named block's text."""
    return dict(_BLOCK.findall(_DOCUMENT.read_text()))


def lay_out(folder: Path, *, packages: Path = CLIENTS) -> Path:
    """Write them into `folder`, where they find the packages that were installed beside `packages`."""
    for name, text in recipes().items():
        (folder / name).write_text(text)
    (folder / "node_modules").symlink_to(packages / "node_modules")
    return folder


@asynccontextmanager
async def asked_of(server: Server, folder: Path) -> AsyncIterator[dict[str, str]]:
    """A host that sends samples, and what a program in `folder` needs to know of it."""
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with host.connected() as link, sampling(link):
        async with asyncio.timeout(PATIENCE):
            while True:
                latest = await server.ask(LATEST, {"id": host.id}, token=admin)
                if latest["machine"]["latestMetrics"]:
                    break
                await asyncio.sleep(0.05)
        yield {
            "folder": str(folder),
            "url": f"{server.url}/graphql",
            "token": admin,
            "machineId": host.id,
        }
