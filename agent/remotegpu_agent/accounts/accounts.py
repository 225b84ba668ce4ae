"""POSIX accounts, made by the host's own `useradd`."""

import contextlib
import os
import pwd
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from remotegpu_agent.accounts.authorized_keys import read_keys, replace_keys
from remotegpu_agent.accounts.ids import IdLedger
from remotegpu_agent.accounts.programs import Run, alone
from remotegpu_agent.accounts.tasks import SHARED, limit_tasks
from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_agent.lines import read_lines
from remotegpu_protocol.errors import InvalidValue
from remotegpu_protocol.grammar import ACCOUNT_NAME, clean_text, shorten
from remotegpu_protocol.ssh_keys import check_key_line

_USERADD: Final = "/usr/sbin/useradd"
_ETC: Final = "/etc"
_USERDEL: Final = "/usr/sbin/userdel"
#: Further tables in which an account has a line of its own, as useradd writes them, in its order.
_TABLES: Final = (Path("/etc/shadow"), Path("/etc/group"))
HOMES: Final = Path("/home")
#: What the account database says of every account that an agent made.
_COMMENT: Final = "RemoteGPU"

_log = structlog.get_logger("remotegpu_agent")


class Accounts:
    """`uids`: which user ids accounts get; `shell`: what signs in to; `ids`: which of them is next."""

    def __init__(self, uids: range, shell: str, ids: IdLedger | None = None) -> None:
        self._uids = uids
        self._shell = shell
        self._ids = ids or IdLedger()

    def ensure(self, name: str, keys: Sequence[str], *, tasks: int = SHARED) -> int:
        """Have the account, with exactly these keys and at most `tasks` percent of the processes and
        threads that the host may have; done again, it changes nothing. Its user id.

        Raises:
            CommandFailed: a name or key that is none, an account of the name that is not an
                agent's, or the host cannot.
        """
        _check(name, keys)
        if not os.access(_ETC, os.W_OK):
            raise CommandFailed(
                "HOST_READ_ONLY",
                f"The agent may not write to {_ETC}. Loosen its unit as "
                "deploy/remotegpu-agent.service.d/cleaning.conf does.",
            )
        with alone() as run:
            if _find(name) is not None and not _is_whole(self._ours(name)):
                # A `useradd` that was killed: sshd may let nobody in.
                run(_USERDEL, "--", name)
            if _find(name) is None:
                self._make(name, run)
            account = self._ours(name)
            _finish_home(account)
            limit_tasks(account.pw_uid, tasks, run)
        self.replace_keys(name, keys)
        return account.pw_uid

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
        if found.pw_uid not in self._uids or not is_made(found):
            raise CommandFailed(
                "ACCOUNT_TAKEN",
                f"The account {name} (user {found.pw_uid}) was not made by an agent. Look at it, "
                "and remove it if it is not needed.",
            )
        return found

    def _make(self, name: str, run: Run) -> None:
        home = HOMES / name
        if os.path.lexists(home):
            raise CommandFailed(
                "HOME_TAKEN", f"{home} is there already, without its account. Move it away."
            )
        ids = self._ids.choose(name, self._uids)
        if ids.further is None:
            _log.warning("the account gets no subordinate ids: none are free", account=name)
        run(
            *(_USERADD, "--create-home", "--home-dir", str(home), "--user-group"),
            *("--shell", self._shell, "--comment", _COMMENT),
            # No password that could be guessed, and not locked: sshd lets nobody into those.
            *("--password", "*"),
            *("--uid", str(ids.uid)),
            *_further(ids.further),
            *("--key", f"GID_MIN={self._uids[0]}", "--key", f"GID_MAX={self._uids[-1]}"),
            # Whatever the host's defaults are: nobody else looks into a home.
            *("--key", "HOME_MODE=0700", "--", name),
        )


def _further(ids: range | None) -> list[str]:
    """Without them useradd takes the first range that is free, which the account before had. Only
    containers without root need one, so an account does without where none is free."""
    if ids is None:
        return ["--key", "SUB_UID_COUNT=0", "--key", "SUB_GID_COUNT=0"]
    return [
        part
        for kind in ("SUB_UID", "SUB_GID")
        for key, value in (("MIN", ids.start), ("MAX", ids.stop - 1), ("COUNT", len(ids)))
        for part in ("--key", f"{kind}_{key}={value}")
    ]


def find_made(name: str) -> pwd.struct_passwd | None:
    """The account as the host knows it; None where there is none, or no agent made it."""
    found = _find(name)
    return found if found is not None and is_made(found) else None


def find_account(name: str, uid: int) -> pwd.struct_passwd | None:
    """The account of this name while it has this user id, whatever else became of it."""
    found = _find(name)
    return found if found is not None and found.pw_uid == uid else None


def is_there(name: str) -> bool:
    """Whether there is anything of the name: an account of anybody's, or its home."""
    return _find(name) is not None or os.path.lexists(HOMES / name)


def is_made(account: pwd.struct_passwd) -> bool:
    """Whether an agent made the account."""
    # The rooms and numbers behind it are the user's to write, with chfn(1).
    return account.pw_gecos.split(",")[0] == _COMMENT


def _is_whole(account: pwd.struct_passwd) -> bool:
    """Whether it is in all tables, which `useradd` replaces one after the other."""
    start = f"{account.pw_name}:"
    return all(any(line.startswith(start) for line in read_lines(table)) for table in _TABLES)


def _finish_home(account: pwd.struct_passwd) -> None:
    """What a `useradd` that was killed had still to do: it makes the home after the account, and
    gives it to its user after that. Only root could have made one that is root's."""
    home = Path(account.pw_dir)
    try:
        with contextlib.suppress(FileExistsError):
            home.mkdir(mode=0o700)
        found = home.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == 0:
            home.chmod(0o700)
            os.chown(home, account.pw_uid, account.pw_gid, follow_symlinks=False)
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
