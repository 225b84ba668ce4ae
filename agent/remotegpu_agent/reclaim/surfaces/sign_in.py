"""The account's ways in, closed first: nothing that is removed may come back through them."""

from pathlib import Path
from typing import Final

from remotegpu_agent.lines import read_lines
from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings
from remotegpu_agent.reclaim.tools import run_tool
from remotegpu_protocol.surfaces import Surface

_SHADOW: Final = Path("/etc/shadow")
#: Fields of shadow(5).
_PASSWORD: Final = 1
_EXPIRES: Final = 7
#: Days since 1970: long over, and not 0, which some programs read as "never".
_LONG_AGO: Final = "1"
#: usermod(8): it is not there, after a cleaning that is done again.
_NO_SUCH_USER: Final = 6


class SignIn(BlockingStep):
    """Locked and expired: sshd refuses an expired account its keys too."""

    surface = Surface.SIGN_IN
    action = "locked"
    tools = ("usermod",)

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for line in read_lines(_SHADOW):
            fields = line.split(":")
            if fields[0] != self.tenancy.account.name or len(fields) <= _EXPIRES:
                continue
            if not fields[_PASSWORD].startswith("!") or fields[_EXPIRES] != _LONG_AGO:
                findings.add(f"{fields[0]} can sign in")
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        run_tool(
            "usermod",
            "--lock",
            "--expiredate",
            _LONG_AGO,
            "--",
            self.tenancy.account.name,
            deadline=deadline,
            accepted=(0, _NO_SUCH_USER),
        )
