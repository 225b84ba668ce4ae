"""POSIX accounts, made by the host's own `useradd`."""

import os
import pwd
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from remotegpu_agent.accounts.authorized_keys import read_keys, replace_keys
from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_protocol.errors import InvalidValue
from remotegpu_protocol.grammar import ACCOUNT_NAME, clean_text, shorten
from remotegpu_protocol.ssh_keys import check_key_line

_USERADD: Final = "/usr/sbin/useradd"
_TABLES: Final = "/etc"
_HOMES: Final = Path("/home")
#: What the account database says of every account that an agent made.
_COMMENT: Final = "RemoteGPU"
#: Seconds that a program of the host may take.
_PATIENCE: Final = 60


class Accounts:
    """`uids`: which user ids accounts get; `shell`: what signs in to."""

    def __init__(self, uids: range, shell: str) -> None:
        self._uids = uids
        self._shell = shell

    def ensure(self, name: str, keys: Sequence[str]) -> None:
        """Have the account, with exactly these keys; done again, it changes nothing.

        Raises:
            CommandFailed: a name or key that is none, an account of the name that is not an
                agent's, or the host cannot.
        """
        _check(name, keys)
        found = _find(name)
        if found is None:
            self._make(name)
        elif not os.path.lexists(found.pw_dir):
            _finish_home(self._ours(name))
        self.replace_keys(name, keys)

    def replace_keys(self, name: str, keys: Sequence[str]) -> None:
        """Raises CommandFailed: as `ensure`, and where there is no such account."""
        _check(name, keys)
        found = self._ours(name)
        try:
            replace_keys(found.pw_dir, found.pw_uid, found.pw_gid, keys)
        except OSError as error:
            raise CommandFailed(
                "KEYS_NOT_WRITTEN",
                f"The keys of {name} could not be written: {clean_text(str(error))}.",
            ) from None

    def has(self, name: str, keys: Sequence[str]) -> bool:
        """Whether the account is there with exactly these keys."""
        found = find_made(name)
        if found is None:
            return False
        try:
            return read_keys(found.pw_dir) == list(keys)
        except OSError:
            return False

    def _ours(self, name: str) -> pwd.struct_passwd:
        found = _find(name)
        if found is None:
            raise CommandFailed("NO_SUCH_ACCOUNT", f"This host has no account {name}.")
        if found.pw_uid not in self._uids or found.pw_gecos != _COMMENT:
            raise CommandFailed(
                "ACCOUNT_TAKEN",
                f"The account {name} (user {found.pw_uid}) was not made by an agent. Look at it, "
                "and remove it if it is not needed.",
            )
        return found

    def _make(self, name: str) -> None:
        if not os.access(_TABLES, os.W_OK):
            raise CommandFailed(
                "HOST_READ_ONLY",
                f"The agent may not write to {_TABLES}. Loosen its unit as "
                "deploy/remotegpu-agent.service.d/cleaning.conf does.",
            )
        home = _HOMES / name
        if os.path.lexists(home):
            raise CommandFailed(
                "HOME_TAKEN", f"{home} is there already, without its account. Move it away."
            )
        command = [
            *(_USERADD, "--create-home", "--home-dir", str(home), "--user-group"),
            *("--shell", self._shell, "--comment", _COMMENT),
            # No password that could be guessed, and not locked: sshd lets nobody into those.
            *("--password", "*"),
            *("--key", f"UID_MIN={self._uids[0]}", "--key", f"UID_MAX={self._uids[-1]}"),
            *("--key", f"GID_MIN={self._uids[0]}", "--key", f"GID_MAX={self._uids[-1]}"),
            # Whatever the host's defaults are: nobody else looks into a home.
            *("--key", "HOME_MODE=0700", "--", name),
        ]
        try:
            subprocess.run(  # noqa: S603 - an absolute program, checked arguments, no shell
                command,
                check=True,
                capture_output=True,
                timeout=_PATIENCE,
                stdin=subprocess.DEVNULL,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
            )
        except FileNotFoundError:
            raise CommandFailed("NO_USERADD", f"{_USERADD} is not on this host.") from None
        except subprocess.TimeoutExpired:
            raise CommandFailed("USERADD", f"useradd took more than {_PATIENCE} s.") from None
        except subprocess.CalledProcessError as error:
            raise CommandFailed(
                "USERADD", f"useradd made no account {name}: {clean_text(error.stderr, 500)}"
            ) from None


def find_made(name: str) -> pwd.struct_passwd | None:
    """The account as the host knows it; None where there is none, or no agent made it."""
    found = _find(name)
    return found if found is not None and found.pw_gecos == _COMMENT else None


def _finish_home(account: pwd.struct_passwd) -> None:
    """What a `useradd` that was killed had still to do."""
    try:
        Path(account.pw_dir).mkdir(mode=0o700)
        os.chown(account.pw_dir, account.pw_uid, account.pw_gid, follow_symlinks=False)
    except OSError as error:
        raise CommandFailed(
            "HOME_NOT_MADE", f"{account.pw_dir} could not be made: {clean_text(str(error))}."
        ) from None


def _find(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _check(name: str, keys: Sequence[str]) -> None:
    """Again here, whatever the messages' shapes let through."""
    if not ACCOUNT_NAME.fullmatch(name):
        raise CommandFailed("INVALID_ACCOUNT", f"{shorten(name)!r} is no name of an account.")
    try:
        for key in keys:
            check_key_line(key)
    except InvalidValue as error:
        raise CommandFailed("INVALID_KEY", error.message) from None
