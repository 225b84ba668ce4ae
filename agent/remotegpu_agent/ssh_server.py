"""The host's SSH server: where it listens, and the keys by which it is known."""

import base64
import binascii
import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.inventory import HostKey, SshServer
from remotegpu_protocol.limits import MAX_HOST_KEYS

_SSHD: Final = Path("/usr/sbin/sshd")
_CONFIGURATION: Final = Path("/etc/ssh")
#: Where sshd's own keys are unless its configuration says otherwise, the best first.
_KEYS: Final = ("ssh_host_ed25519_key", "ssh_host_ecdsa_key", "ssh_host_rsa_key")
_PORT: Final = 22
#: Seconds that sshd may take to say how it is configured.
_PATIENCE: Final = 5
#: Bytes of a file with a public key: RSA of 16384 bits and a comment.
_MAX_FILE: Final = 16 * 1024


class SshServerReader:
    """Reads it again when the configuration or a key changed, which is hardly ever."""

    def __init__(self, sshd: Path = _SSHD, configuration: Path = _CONFIGURATION) -> None:
        self._sshd = sshd
        self._configuration = configuration
        self._seen: object = None
        self._read: SshServer | None = None

    def read(self) -> SshServer | None:
        """What sshd says of itself; what it does by default where it says nothing. None: no sshd."""
        now = list(self._stamps())
        if now != self._seen:
            self._read = self._look()
            self._seen = now
        return self._read

    def _look(self) -> SshServer | None:
        if not os.access(self._sshd, os.X_OK):
            return None
        port, paths = _effective(self._sshd, self._configuration / "sshd_config")
        keys = [
            key
            for path in paths or [self._configuration / name for name in _KEYS]
            if (key := _host_key(Path(f"{path}.pub"))) is not None
        ]
        return SshServer(port, keys[:MAX_HOST_KEYS])

    def _stamps(self) -> Iterator[tuple[str, int, int]]:
        folder = self._configuration
        for path in (self._sshd, folder, folder / "sshd_config", folder / "sshd_config.d"):
            try:
                found = path.stat()
            except OSError:
                continue
            yield str(path), found.st_mtime_ns, found.st_ino


def _effective(sshd: Path, configuration: Path) -> tuple[int, list[Path]]:
    """The port and the private keys' paths, as `sshd -T` says them: as root alone, and not where it
    never ran."""
    try:
        said = subprocess.run(  # noqa: S603 - the host's own sshd, no shell
            [sshd, "-T", "-f", configuration],
            check=True,
            capture_output=True,
            timeout=_PATIENCE,
            stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.SubprocessError):
        return _PORT, []
    words = [line.split(None, 1) for line in said.splitlines()]
    ports = [int(rest) for name, rest in filter(_is_pair, words) if _is_port(name, rest)]
    paths = [Path(rest) for name, rest in filter(_is_pair, words) if name == "hostkey"]
    return (ports[0] if ports else _PORT), paths


def _is_pair(words: list[str]) -> bool:
    return len(words) == 2


def _is_port(name: str, rest: str) -> bool:
    return name == "port" and rest.isascii() and rest.isdigit() and 0 < int(rest) < 65_536


def _host_key(path: Path) -> HostKey | None:
    try:
        with path.open("rb") as file:
            words = file.read(_MAX_FILE).split()
        blob = base64.b64decode(words[1], validate=True)
    except (OSError, IndexError, binascii.Error):
        return None
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return HostKey(clean_text(words[0], 64) or "unknown", f"SHA256:{digest}")
