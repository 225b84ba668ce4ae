"""A bucket, mounted through s3fs: a process of its own that outlives the agent."""

import contextlib
import os
import secrets
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import Final

from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_agent.datasets.clients import clients_of, end_clients
from remotegpu_agent.datasets.credentials import find_key
from remotegpu_agent.datasets.parents import opened_parent
from remotegpu_agent.datasets.records import ROOT
from remotegpu_agent.datasets.source import Source, reach
from remotegpu_agent.mount_table import mounted_at
from remotegpu_agent.reclaim.tools import find_tool
from remotegpu_protocol.bucket_keys import BucketKey
from remotegpu_protocol.datasets import s3_parts
from remotegpu_protocol.grammar import clean_text

CLIENT: Final = "s3fs"
#: Names a file with authorities that are trusted for buckets.
AUTHORITIES_VARIABLE: Final = "REMOTEGPU_AGENT_S3_CA_FILE"
#: The one of them that s3fs reads itself.
_CLIENT_VARIABLE: Final = "CURL_CA_BUNDLE"
_AMAZON: Final = "https://s3.amazonaws.com"
_FUSE: Final = Path("/dev/fuse")
#: As the kernel's list of devices has it.
_FUSE_NUMBER: Final = os.makedev(10, 229)
#: Keys and first words of clients, for root alone.
_FILES: Final = ROOT.parent / "s3"
_SYSTEMD: Final = Path("/run/systemd/system")
#: Seconds until a client must serve its bucket; it gives up by itself before.
_READY: Final = 30.0
_POLL: Final = 0.05


class Bucket(Source):
    kinds = frozenset({"fuse.s3fs"})

    async def check(self) -> None:
        if find_tool(CLIENT) is None:
            raise CommandFailed(
                "NO_FUSE_CLIENT", "s3fs is not on this host, which mounts buckets. Install s3fs."
            )
        if not _is_fuse(_FUSE):
            raise CommandFailed("NO_FUSE", "This host has no /dev/fuse. Load the module fuse.")
        self._key()
        authorities_file()
        host, port = _address(self._endpoint)
        await reach(host, port)

    def attach(self) -> None:
        key = self._key()
        authorities = authorities_file()
        with opened_parent(_FILES / "any", make=True, mode=0o700):
            pass
        if key is not None:
            _write(self._password, f"{key.access_key}:{key.secret_key}\n")
        _write(self._log, "")
        try:
            self._start(key, authorities)
            self._wait()
        finally:
            # It has read it by now, or never will.
            self._password.unlink(missing_ok=True)

    def lives(self) -> bool:
        return bool(clients_of(CLIENT, self.record.place))

    def end(self) -> None:
        """After everything there was unmounted, whether `attach` was done or not.

        Raises:
            CommandFailed, OSError: something of it is left.
        """
        end_clients(CLIENT, self.record.place)
        for path in (self._password, self._log):
            path.unlink(missing_ok=True)

    def arguments(self, key: BucketKey | None) -> list[str]:
        """Of s3fs(1)."""
        bucket, prefix = s3_parts(self.record.location)
        options = [
            # Others are kept out by the directory above; this lets the account in beside root.
            *("allow_other", f"uid={self.record.uid}", f"gid={self.record.gid}", "umask=0077"),
            *("nosuid", "nodev", "ro" if self.record.read_only else "rw"),
            *(f"url={self._endpoint}", "connect_timeout=10", "readwrite_timeout=30", "retries=3"),
            "tmpdir=/var/tmp",
        ]
        if self.record.endpoint is not None or "." in bucket:
            options.append("use_path_request_style")
        if key is None:
            options.append("public_bucket=1")
        else:
            options.append(f"passwd_file={self._password}")
            if key.region is not None:
                options.append(f"endpoint={key.region}")
        source = f"{bucket}:/{prefix}" if prefix else bucket
        return [source, str(self.record.place), "-f", "-o", ",".join(options)]

    @property
    def _endpoint(self) -> str:
        return self.record.endpoint or _AMAZON

    @property
    def _password(self) -> Path:
        return _FILES / f"{self.record.mount_id}.passwd"

    @property
    def _log(self) -> Path:
        return _FILES / f"{self.record.mount_id}.log"

    def _key(self) -> BucketKey | None:
        return find_key(self.record.endpoint, s3_parts(self.record.location)[0])

    def _start(self, key: BucketKey | None, authorities: Path | None) -> None:
        trust = {} if authorities is None else {_CLIENT_VARIABLE: str(authorities)}
        client = [str(find_tool(CLIENT) or CLIENT), *self.arguments(key)]
        if _SYSTEMD.is_dir():
            # A unit of its own: the agent's ends all of the agent's processes when it restarts. Of
            # another name each time: the one before may still be going.
            unit = f"remotegpu-{self.record.mount_id}-{secrets.token_hex(4)}"
            command = [
                *("systemd-run", "--quiet", "--collect", f"--unit={unit}"),
                *("--property=UMask=0077", f"--property=StandardError=append:{self._log}"),
                *(f"--setenv={name}={value}" for name, value in trust.items()),
                *(f"--description=RemoteGPU data set {self.record.path}", "--", *client),
            ]
        else:
            command = ["setsid", "--fork", "--", *client]
        program = find_tool(command[0])
        if program is None:
            raise CommandFailed("NO_FUSE_CLIENT", f"{command[0]} is not on this host.")
        with self._log.open("ab") as log, contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(  # noqa: S603 - an absolute path, and arguments that were checked
                [program, *command[1:]],
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", **trust},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=_READY,
                check=False,
            )
            if done.returncode == 0:
                return
        raise self._failed("it did not start")

    def _wait(self) -> None:
        deadline = time.monotonic() + _READY
        began = False
        while time.monotonic() < deadline:
            living = self.lives()
            began = began or living
            if living and mounted_at(self.record.place) is not None:
                # The first answer comes after the client has asked for its bucket.
                if _owner(self.record.place, deadline - time.monotonic()) == self.record.uid:
                    return
            elif began and not living:
                raise self._failed("it ended")
            time.sleep(_POLL)
        raise self._failed(f"it was not ready within {_READY:g} s")

    def _failed(self, what: str) -> CommandFailed:
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        said = [line for line in lines if "[CRT]" in line or not line.startswith("20")]
        words = clean_text(said[-1].rpartition("): ")[2], 300) if said else "it did not say why"
        return CommandFailed(
            "SOURCE_REFUSED",
            f"s3fs could not mount {self.record.location} from {self._endpoint}, {what}: {words}. "
            "Check bucket and prefix, and the host's key to it in /etc/remotegpu/s3.toml.",
        )


def authorities_file() -> Path | None:
    """PEM certificates of authorities that s3fs trusts in place of the system's: the first that is
    named of a setting, of AWS's programs, of curl's and of OpenSSL's. None: the system's.

    Raises CommandFailed: there is no such file.
    """
    for variable in (AUTHORITIES_VARIABLE, "AWS_CA_BUNDLE", _CLIENT_VARIABLE, "SSL_CERT_FILE"):
        named = os.environ.get(variable)
        if not named:
            continue
        if not os.access(named, os.R_OK):
            raise CommandFailed(
                "NO_AUTHORITIES",
                f"{variable} names {clean_text(named)}, which the agent cannot read. Expected a file "
                "with PEM certificates of authorities.",
            )
        return Path(named)
    return None


def _address(endpoint: str) -> tuple[str, int]:
    scheme, _, rest = endpoint.partition("://")
    host, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]"):
        host, port = rest, "443" if scheme == "https" else "80"
    return host.strip("[]"), int(port)


def _is_fuse(device: Path) -> bool:
    try:
        found = device.stat()
    except OSError:
        return False
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == _FUSE_NUMBER


def _write(path: Path, content: str) -> None:
    """A file for root alone, in place of one that is there."""
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "w") as file:
        file.write(content)


def _owner(place: Path, seconds: float) -> int | None:
    """Whose it says it is; None when it fails, or does not answer in time.

    In a thread that may hang until the client is ended, which is what happens next.
    """
    found: list[int] = []

    def ask() -> None:
        try:
            found.append(place.stat().st_uid)
        except OSError:
            return

    asking = threading.Thread(target=ask, daemon=True, name="first look at a bucket")
    asking.start()
    asking.join(max(seconds, 0.1))
    return found[0] if found else None
