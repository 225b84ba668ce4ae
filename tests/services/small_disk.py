"""A small file system that a test can fill: a full disk is one that has no room, not a patched write."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def small_disk(folder: Path, *, size: int, inodes: int = 0) -> Iterator[None]:
    """A file system of `size` bytes, and of so many inodes, at `folder`. Needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size},mode=700" + (f",nr_inodes={inodes}" if inodes else "")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no byte free."""
    with contextlib.ExitStack() as opened:
        try:
            file = opened.enter_context((folder / "ballast").open("ab", buffering=0))
        except OSError:
            # No inode is free.
            return
        for size in (65_536, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass


def use_up_inodes(folder: Path) -> None:
    """Leave room for bytes, and for no further file."""
    names = folder / "names"
    with contextlib.suppress(OSError):
        names.mkdir(exist_ok=True)
        for number in range(1_000_000):
            (names / str(number)).touch()


def make_room(folder: Path) -> None:
    """Undo both."""
    (folder / "ballast").unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        for path in (folder / "names").iterdir():
            path.unlink()
        (folder / "names").rmdir()
