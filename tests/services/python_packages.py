"""Python packages that tests run apart from ours, installed once from a committed lock file."""

import asyncio
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[2]
_PATIENCE: Final = 180.0


def install(name: str) -> Path:
    """The folder that has the packages of requirements/client-NAME.txt."""
    lock = _ROOT / "requirements" / f"client-{name}.txt"
    folder = _ROOT / ".venv" / "clients" / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".installed").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if file.read() == lock.read_text():
            return folder
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q"),
                *("--no-deps", "--require-hashes", "--upgrade", "--target", folder, "-r", lock),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        file.truncate(0)
        file.write(lock.read_text())
    return folder


async def run_python(packages: Path, folder: Path, *arguments: str) -> str:
    """What Python wrote with these packages alone, in `folder`; it must end well."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-S",
        *arguments,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{packages}:{folder}"},
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
    assert process.returncode == 0, out.decode() + err.decode()
    return out.decode()
