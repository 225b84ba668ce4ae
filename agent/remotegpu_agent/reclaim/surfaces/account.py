"""The account itself, last: until then it keeps the user id from becoming somebody else's."""

from pathlib import Path
from typing import Final

from remotegpu_agent.accounts.subordinate import SUBGID, SUBUID, remove_owner
from remotegpu_agent.lines import read_lines
from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings
from remotegpu_agent.reclaim.tools import run_tool
from remotegpu_protocol.surfaces import Surface

_PASSWD: Final = Path("/etc/passwd")
_GROUP: Final = Path("/etc/group")
_GSHADOW: Final = Path("/etc/gshadow")
#: Tables in which a line may begin with the user id in place of the name.
_FURTHER: Final = (SUBUID, SUBGID)
#: Files of colon-separated lines that begin with the name.
_TABLES: Final = (
    _PASSWD,
    Path("/etc/shadow"),
    _GROUP,
    _GSHADOW,
    *_FURTHER,
)
#: userdel(8): it is not there; a process has its user id.
_NO_SUCH_USER: Final = 6
_IN_USE: Final = 8
_NO_SUCH_GROUP: Final = 6


class AccountItself(BlockingStep):
    surface = Surface.ACCOUNT
    only_when_clean = True
    tools = ("userdel", "groupdel")

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for table in _TABLES:
            if self._is_in(table):
                findings.add(str(table))
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        name = self.tenancy.account.name
        for table in _FURTHER:
            # userdel knows lines with the name alone.
            remove_owner(table, str(self.tenancy.uid))
        if not self._is_in(_PASSWD) and self.look_now(deadline):
            # A userdel that was killed between two tables: it does not know the rest by itself.
            run_tool(
                *("useradd", "--no-create-home", "--no-user-group", "--non-unique"),
                *("--uid", str(self.tenancy.uid), "--expiredate", "1", "--", name),
                deadline=deadline,
            )
        run_tool("userdel", "--", name, deadline=deadline, accepted=(0, _NO_SUCH_USER, _IN_USE))
        if self._is_in(_PASSWD):
            # All of its processes have ended, as is proven by now. What is left has not been waited
            # for by another user's program that started it.
            run_tool("userdel", "--force", "--", name, deadline=deadline)
        if self._is_in(_GSHADOW) and not self._is_in(_GROUP):
            run_tool("groupadd", "--", name, deadline=deadline)
        if self._is_in(_GROUP):
            # userdel takes the user's own group along only where login.defs says so.
            run_tool("groupdel", "--", name, deadline=deadline, accepted=(0, _NO_SUCH_GROUP))

    def _is_in(self, table: Path) -> bool:
        try:
            lines = read_lines(table)
        except FileNotFoundError:
            return False
        owners = {self.tenancy.account.name}
        if table in _FURTHER:
            owners.add(str(self.tenancy.uid))
        return any(line.partition(":")[0] in owners for line in lines)
