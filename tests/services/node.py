"""npm packages, installed once from a committed lock file, and programs that use them."""

import asyncio
import fcntl
import subprocess
from pathlib import Path
from typing import Final

from tests.services.programs import find_program

CLIENTS: Final = Path(__file__).parents[1] / "npm"

#: Seconds for an installation, and for a program.
_PATIENCE: Final = 120.0


def install(folder: Path = CLIENTS) -> None:
    """Run `npm ci` in `folder` unless its lock file is installed already."""
    lock = (folder / "package-lock.json").read_text()
    # What was installed last; and test processes come here side by side.
    with (folder / ".installed").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if file.read() == lock and (folder / "node_modules").is_dir():
            return
        done = subprocess.run(
            [find_program("npm", package="npm"), "ci", "--ignore-scripts", "--no-progress"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        file.truncate(0)
        file.write(lock)


async def run_node(
    script: str, *arguments: str, folder: Path = CLIENTS, may_warn: bool = False
) -> str:
    """What `node script` wrote to standard output; it must end well and write no errors."""
    process = await asyncio.create_subprocess_exec(
        find_program("node", "nodejs", package="nodejs"),
        script,
        *arguments,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = out.decode() + err.decode()
    assert process.returncode == 0, said
    assert may_warn or not err, said
    return out.decode()
