"""A name whose first address takes no connection, and whose second one is loopback."""

import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
#: Of a network for documentation (RFC 3849): where nobody answers.
DEAD: Final = "2001:db8::2"
NAME: Final = "server.test"
SETUP: Final = f"""
set -e
ip link set lo up
ip link add near type veth peer name far
ip link set near up
ip link set far up
ip -6 address add 2001:db8::1/64 dev near nodad
ip -6 neighbour add {DEAD} lladdr 02:00:00:00:00:01 dev near nud permanent
printf '{DEAD} {NAME}\\n127.0.0.1 {NAME}\\n' >"$1/hosts"
mount --bind "$1/hosts" /etc/hosts
shift
exec "$@"
"""


def run_beside_a_dead_address(program: Path, folder: Path, *arguments: str) -> None:
    """Run a program in a network of its own, where NAME is the address DEAD and then 127.0.0.1.

    It prints `all of it` at its end. The host's unix sockets are the only way out.
    """
    found = subprocess.run(
        [
            *("unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", SETUP, "sh"),
            *(str(folder), sys.executable, "-m", ".".join(program.relative_to(ROOT).parts)[:-3]),
            *arguments,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.endswith("all of it\n"), found.stdout + found.stderr
