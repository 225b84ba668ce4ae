"""The machine that a run was made on, and what it ran."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("strawberry-graphql", "graphql-core", "starlette", "uvicorn", "uvloop", "websockets")


def describe() -> list[str]:
    """Lines: processor, memory, kernel, versions, and how busy it was before."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return [
        f"Processor: {_processor()}, {os.cpu_count()} cores; memory {memory:.1f} GiB",
        (
            f"System: {platform.system()} {platform.release()}, {platform.libc_ver()[0]} "
            f"{platform.libc_ver()[1]}"
        ),
        f"Python {platform.python_version()}: {packages}",
        f"Redis: {_said('redis-server', '--version')}",
        f"Node: {_said('node', '--version')}",
        f"Compiler of the load client: {_said('gcc', '--version')}",
        "Load average before the run (1, 5, 15 minutes): "
        + ", ".join(f"{load:.1f}" for load in os.getloadavg()),
    ]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _said(program: str, option: str) -> str:
    if shutil.which(program) is None:
        return "not installed"
    done = subprocess.run([program, option], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0] if done.stdout else "unknown"
