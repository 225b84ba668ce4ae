"""How many processes and threads an account may have, so that there are some left to clean it."""

from pathlib import Path
from typing import Final

from remotegpu_agent.accounts.programs import Run

_SYSTEMCTL: Final = "/usr/bin/systemctl"
#: As sd_booted(3) tells.
_RUNNING: Final = Path("/run/systemd/system")

#: Percent of what the host may have: of an account on a host that others share, of which there are not
#: more than cards, and of one that has the whole of it.
SHARED: Final = 5
WHOLE: Final = 80


def limit_tasks(uid: int, percent: int, run: Run) -> None:
    """Of all that systemd has of the user; where systemd does not run, nothing is limited.

    Raises:
        CommandFailed: systemd does not take it.
    """
    if _RUNNING.is_dir():
        run(_SYSTEMCTL, "set-property", f"user-{uid}.slice", f"TasksMax={percent}%")
