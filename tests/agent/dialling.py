"""Run beside a dead address: the agent reaches a control plane by the other address of its name."""

import asyncio
import sys
import tempfile
from pathlib import Path

from remotegpu_agent.datasets.source import reach
from remotegpu_agent.dial import Server, dial
from tests.agent.authority import Authority
from tests.agent.control_plane import running_control_plane
from tests.services.dead_address import NAME


async def main(folder: Path) -> None:
    authority = Authority(folder / "ca")
    async with running_control_plane(tls=authority.server_context(NAME)) as plane:
        port = int(plane.origin.rpartition(":")[2])
        websocket = await dial(Server(f"https://{NAME}:{port}", str(authority.file)))
        await websocket.close()
        await reach(NAME, port)
    sys.stdout.write("all of it\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(main(Path(directory)))
