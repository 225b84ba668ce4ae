"""Accounts whose sign-in sshd is asked about: those that are here, and one as the next will be."""

import grp
import os
import pwd
from collections.abc import Sequence
from typing import Final

from remotegpu_agent.accounts.accounts import HOMES, is_made
from remotegpu_agent.accounts.authorized_keys import read_keys
from remotegpu_agent.ssh.sign_in import Account
from remotegpu_protocol.grammar import ACCOUNT_NAME
from remotegpu_protocol.limits import MAX_SSH_KEYS

#: Of the form that every account of an allocation has, and hardly ever the name of one.
_EXPECTED: Final = "rg-aaaaaaaaaaaa"


def expected_account(shell: str) -> Account:
    """One as an allocation would get it now: in a group of its own name and in no other."""
    return Account(_EXPECTED, None, (_EXPECTED,), str(HOMES / _EXPECTED), shell)


def made_accounts() -> Sequence[Account]:
    """Those that an agent made on this host, by their names."""
    made = [one for one in pwd.getpwall() if is_made(one) and ACCOUNT_NAME.match(one.pw_name)]
    return [
        Account(one.pw_name, one.pw_uid, _groups(one), one.pw_dir, one.pw_shell, _keys(one))
        for one in sorted(made, key=lambda one: one.pw_name)
    ]


def _keys(account: pwd.struct_passwd) -> tuple[str, ...]:
    try:
        lines = read_keys(account.pw_dir)
    except OSError:
        # The home is its user's, who may have put anything in the way.
        return ()
    # With more than a user may register, the file is not the agent's any more.
    return tuple(lines or ()) if len(lines or ()) <= MAX_SSH_KEYS else ()


def _groups(account: pwd.struct_passwd) -> tuple[str, ...]:
    names = []
    for gid in os.getgrouplist(account.pw_name, account.pw_gid):
        try:
            names.append(grp.getgrgid(gid).gr_name)
        except KeyError:
            continue
    return tuple(names)
