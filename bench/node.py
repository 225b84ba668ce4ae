"""Peers that run on Node, installed from their lock file where they are not yet."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "peers" / "node"
_STAMP: Final = FOLDER / "node_modules" / ".bench-lock"


class NoNode(Exception):
    """Node's peers cannot run here."""


def install_node_peers() -> None:
    """Run `npm ci` unless the lock file is installed already; raises NoNode."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise NoNode("Node's peers are left out: install nodejs (20 or newer) and npm.")
    lock = (FOLDER / "package-lock.json").read_text()
    if _STAMP.is_file() and _STAMP.read_text() == lock:
        return
    done = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-progress"],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise NoNode(f"Node's peers are left out, npm ci failed: {done.stderr.strip()[-500:]}")
    _STAMP.write_text(lock)


def node_program(name: str) -> list[str | Path]:
    return ["node", FOLDER / f"{name}.mjs"]
