"""A server's directory: a short path (socket names are limited), gone with the server."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: A unix socket's path holds 107 bytes, and the user that a server runs as must be able to walk to
#: it; pytest's own temporary directories promise neither.
_BASE = Path("/tmp")  # noqa: S108 - mkdtemp makes a private directory in it


@contextmanager
def server_directory(name: str, *, owner: int | None = None) -> Iterator[Path]:
    """A private directory, owned by user id `owner` (ours when None)."""
    path = Path(tempfile.mkdtemp(prefix=f"remotegpu-{name}-", dir=_BASE))
    try:
        if owner is not None:
            shutil.chown(path, user=owner)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
