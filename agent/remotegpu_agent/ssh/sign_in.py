"""Whether sshd, configured as it is, lets an account of an allocation in by its key."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from remotegpu_agent.ssh.configuration import Configuration
from remotegpu_protocol.ssh_keys import InvalidPublicKey, parse_public_key

#: Of `ForceCommand` and login shells: programs that give no shell.
_NO_SHELL: Final = frozenset({"internal-sftp", "nologin", "false", "true"})
_EVERYWHERE: Final = frozenset({"*", "0.0.0.0/0", "::/0"})


@dataclass(frozen=True, slots=True)
class Account:
    """An account as sshd looks at it; `groups` by their names, `keys` the lines of its
    `authorized_keys`."""

    name: str
    uid: int | None
    groups: tuple[str, ...]
    home: str
    shell: str
    keys: tuple[str, ...] = ()


def refusal(said: Configuration, account: Account) -> str | None:
    """Why the account cannot sign in, with what to change; None where nothing here keeps it out.

    A restriction that only holds for some addresses keeps nobody out: from where users come, the
    host does not know.
    """
    return next(_refusals(said, account), None)


def _refusals(said: Configuration, account: Account) -> Iterator[str]:
    if said.says("pubkeyauthentication", "no"):
        yield _change("PubkeyAuthentication is no", "set it to yes for these accounts")
    methods = said.one("authenticationmethods").split()
    if methods and not {"any", "publickey"} & set(methods):
        yield _change(
            f"AuthenticationMethods asks for {' or '.join(methods)}, and these accounts have a key "
            "and nothing else",
            "set it to publickey or any for them",
        )
    files = said.one("authorizedkeysfile").split()
    wanted = f"{account.home}/.ssh/authorized_keys"
    if files and wanted not in {_expanded(file, account) for file in files}:
        yield _change(
            f"AuthorizedKeysFile is {' '.join(files)}, so it does not read {wanted}",
            "add .ssh/authorized_keys to it",
        )
    yield from _short_keys(said, account)
    yield from _lists(said, account)
    forced = said.one("forcecommand")
    if _gives_no_shell(forced):
        yield _change(f"ForceCommand is {forced}", "set it to none for these accounts")
    if said.one("chrootdirectory") not in {"", "none"}:
        yield _change(
            f"ChrootDirectory is {said.one('chrootdirectory')}, where their homes are not",
            "set it to none for these accounts",
        )
    if not os.access(account.shell, os.X_OK) or _gives_no_shell(account.shell):
        yield (
            f"The login shell {account.shell} lets nobody in. Set account_shell in the policy of "
            "this host to a shell that is there."
        )


def _short_keys(said: Configuration, account: Account) -> Iterator[str]:
    """sshd takes no RSA key of less than RequiredRSASize bits, and tells the user only that the key
    was refused."""
    required = said.one("requiredrsasize")
    bits = [_rsa_bits(line) for line in account.keys if line.strip()]
    sizes = [size for size in bits if size is not None]
    if not (required.isdecimal() and sizes and len(sizes) == len(bits)):
        return
    if max(sizes) < int(required):
        yield _change(
            f"RequiredRSASize is {required}, and the account has only RSA keys of at most "
            f"{max(sizes)} bits",
            "have its user add an Ed25519 key (ssh-keygen -t ed25519), or lower it",
        )


def _rsa_bits(line: str) -> int | None:
    """None for a key of another kind, and for a line with options."""
    try:
        return parse_public_key(line).rsa_bits
    except InvalidPublicKey:
        return None


def _lists(said: Configuration, account: Account) -> Iterator[str]:
    """In sshd's order: DenyUsers, AllowUsers, DenyGroups, AllowGroups (sshd_config(5))."""
    name = account.name
    denied = next((one for one in said.all("denyusers") if _denies(one, name)), None)
    if denied is not None:
        yield _change(f"DenyUsers {denied} keeps these accounts out", "narrow it")
    allowed = said.all("allowusers")
    if allowed and not any(_matches(one.rpartition("@")[0] or one, name) for one in allowed):
        yield _change(
            f"AllowUsers names none of these accounts ({_some(allowed)})", "add rg-* to it"
        )
    groups = account.groups
    denied = next((one for one in said.all("denygroups") if _any(one, groups)), None)
    if denied is not None:
        yield _change(f"DenyGroups {denied} keeps these accounts out", "narrow it")
    allowed = said.all("allowgroups")
    if allowed and not any(_any(one, groups) for one in allowed):
        yield _change(
            "AllowGroups names no group of these accounts, each of which has a group of its own "
            f"name ({_some(allowed)})",
            "add rg-* to it",
        )


def _change(fault: str, remedy: str) -> str:
    return f"In sshd's configuration {fault}: {remedy} and reload sshd."


def _some(patterns: list[str]) -> str:
    return " ".join(patterns[:8]) + (" ..." if len(patterns) > 8 else "")


def _denies(pattern: str, name: str) -> bool:
    user, at, host = pattern.rpartition("@")
    return _matches(user if at else host, name) and (not at or host in _EVERYWHERE)


def _any(pattern: str, names: Iterable[str]) -> bool:
    return any(_matches(pattern, name) for name in names)


def _matches(pattern: str, name: str) -> bool:
    """`*` and `?` and nothing else, as ssh_config(5) has PATTERNS."""
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.fullmatch("".join(parts), name, re.DOTALL) is not None


def _expanded(file: str, account: Account) -> str:
    """A word of AuthorizedKeysFile with its tokens replaced; relative to the home."""
    tokens = {"%%": "%", "%h": account.home, "%u": account.name, "%U": str(account.uid)}
    path = re.sub("%.", lambda found: tokens.get(found[0], found[0]), file)
    return os.path.normpath(Path(account.home) / path)


def _gives_no_shell(command: str) -> bool:
    words = command.split()
    return bool(words) and Path(words[0]).name in _NO_SHELL
