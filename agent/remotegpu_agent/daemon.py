"""What `remotegpu-agent run` becomes once its options are read.

The library that reads options brings a quarter of the memory that the agent may use, for work of
one moment. So `run` replaces its process with this one, which never imports it: same process id,
same standard error, and the settings in one environment variable (arguments are for all to see,
and a proxy's address may hold a password).
"""

import os
import sys
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from remotegpu_agent.datasets.s3 import AUTHORITIES_VARIABLE
from remotegpu_agent.errors import AgentError, fail
from remotegpu_agent.logs import configure_logs
from remotegpu_agent.running import run_agent
from remotegpu_agent.sources.choose import SourceSettings
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.errors import ProtocolError

_VARIABLE: Final = "REMOTEGPU_AGENT_RUN_SETTINGS"


class RunSettings(msgspec.Struct, frozen=True):
    """Everything that `run` was told."""

    state_directory: str
    source: SourceSettings
    policy: str
    proxy: str | None = None
    s3_ca_file: str | None = None
    log_level: str = "info"
    log_format: str = "console"


def become_daemon(settings: RunSettings) -> NoReturn:
    """Replace this process; nothing after this call happens."""
    sys.stdout.flush()
    sys.stderr.flush()
    environment = os.environ | {_VARIABLE: msgspec.json.encode(settings).decode()}
    # -P: no module from the current directory.
    arguments = [sys.executable, "-P", "-m", "remotegpu_agent.daemon"]
    os.execve(sys.executable, arguments, environment)  # noqa: S606 - no shell is wanted


def main() -> NoReturn:
    settings = msgspec.json.decode(os.environ.pop(_VARIABLE, "{}"), type=RunSettings)
    if settings.s3_ca_file is not None:
        os.environ[AUTHORITIES_VARIABLE] = settings.s3_ca_file
    configure_logs(settings.log_level, settings.log_format)
    try:
        run_agent(
            StateDirectory(Path(settings.state_directory)),
            settings.source,
            policy=Path(settings.policy),
            proxy=settings.proxy,
        )
    except (AgentError, ProtocolError) as error:
        fail(error)
    sys.exit(0)


if __name__ == "__main__":
    main()
