"""The account itself, last: until then it keeps the user id from becoming somebody else's."""

from pathlib import Path
from typing import Final

from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings
from remotegpu_agent.reclaim.tools import run_tool

#: Files of colon-separated lines that begin with the name.
_TABLES: Final = tuple(
    map(
        Path,
        ("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/subuid", "/etc/subgid"),
    )
)
#: userdel(8): it is not there.
_NO_SUCH_USER: Final = 6
_NO_SUCH_GROUP: Final = 6


class AccountItself(BlockingStep):
    surface = "account"
    only_when_clean = True

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for table in _TABLES:
            if self._is_in(table):
                findings.add(str(table))
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        name = self.tenancy.account.name
        run_tool("userdel", "--", name, deadline=deadline, accepted=(0, _NO_SUCH_USER))
        if self._is_in(Path("/etc/group")):
            # userdel takes the user's own group along only where login.defs says so.
            run_tool("groupdel", "--", name, deadline=deadline, accepted=(0, _NO_SUCH_GROUP))

    def _is_in(self, table: Path) -> bool:
        try:
            lines = table.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return False
        return any(line.partition(":")[0] == self.tenancy.account.name for line in lines)
