"""Driving the stub NVML library that `nvml_stub/nvml_stub.c` describes."""

import os
import shutil
import subprocess
from pathlib import Path

LIBRARY = "libnvidia-ml.so.1"

_SOURCE = Path(__file__).parent / "nvml_stub" / "nvml_stub.c"


def build_library(directory: Path) -> Path:
    """Compile the stub; fails, and says how to mend it, where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler is not None, "These tests compile a stub driver: apt-get install gcc libc6-dev"
    library = directory / LIBRARY
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", library, _SOURCE],
        check=True,
        timeout=60,
    )
    return library


class StubDriver:
    """A driver of one test: present when `installed`, and whatever `tell` made of it."""

    def __init__(self, directory: Path, library: Path) -> None:
        self._library = library
        self._directory = directory / "driver"
        self._directory.mkdir()
        self._file = directory / "stub.txt"
        self._settings = directory / "stub.txt.set"
        self._lines: dict[str, bytes] = {}
        self.tell(cards="0 1")

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "LD_LIBRARY_PATH": str(self._directory),
            "NVML_STUB_FILE": str(self._file),
        }

    def install(self) -> None:
        # Under its name in one step: the dynamic linker must not see half a library.
        temporary = self._directory / "unpacked"
        shutil.copy(self._library, temporary)
        temporary.replace(self._directory / LIBRARY)

    def install_garbage(self) -> None:
        (self._directory / LIBRARY).write_text("not a library")

    def tell(
        self, lines: dict[str, str | bytes | int] | None = None, *, cards: str | None = None
    ) -> None:
        """Change what the driver does from its next call on."""
        if cards is not None:
            self._lines["cards"] = cards.encode()
        for key, value in (lines or {}).items():
            self._lines[key] = value if isinstance(value, bytes) else str(value).encode()
        self._write()

    def set(self, lines: dict[str, int]) -> None:
        """What somebody set cards to, through any process."""
        with self._settings.open("a") as file:
            file.writelines(f"{key} {value}\n" for key, value in lines.items())

    def settings(self) -> dict[str, int]:
        """What was set last."""
        if not self._settings.exists():
            return {}
        pairs = [line.split() for line in self._settings.read_text().splitlines()]
        return {key: int(value) for key, value in pairs}

    def forget(self, *keys: str) -> None:
        """Have the driver do again what it does by itself."""
        for key in keys:
            del self._lines[key]
        self._write()

    def _write(self) -> None:
        temporary = self._file.with_suffix(".new")
        temporary.write_bytes(
            b"".join(key.encode() + b" " + value + b"\n" for key, value in self._lines.items())
        )
        temporary.replace(self._file)
