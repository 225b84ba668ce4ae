"""The program `remotegpu-agent`."""

import asyncio
import difflib
import math
import os
import sys
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from remotegpu_agent.errors import AgentError, SettingError, fail
from remotegpu_agent.logs import LEVELS
from remotegpu_agent.sources.choose import SourceKind, SourceSettings
from remotegpu_agent.sources.simulated import DEFAULT_COUNT, DEFAULT_MODEL
from remotegpu_agent.state_directory import StateDirectory, default_state_directory
from remotegpu_agent.version import agent_version
from remotegpu_protocol.errors import ProtocolError

app = typer.Typer(
    name="remotegpu-agent",
    help="Connects this GPU host to a RemoteGPU control plane.\n\n"
    "First `enroll` once with a token from the control plane, then keep `run` running (under "
    "systemd, usually). `status` tells how it is. The agent only makes outbound connections and "
    "opens no port.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

#: What programs commonly take for "read it from there".
_STANDARD_INPUT: Final = "-"

_PREFIX: Final = "REMOTEGPU_AGENT_"
#: A setting of the control plane, which may share an environment with an agent.
_OTHERS: Final = frozenset({"REMOTEGPU_AGENT_URLS"})

StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        envvar="REMOTEGPU_AGENT_STATE_DIR",
        help="Where the agent keeps its key and state; mode 0700. Default: "
        "/var/lib/remotegpu-agent for root, else ~/.local/state/remotegpu-agent.",
        show_default=False,
    ),
]
GpuSourceOption = Annotated[
    SourceKind,
    typer.Option(
        "--gpu-source",
        envvar="REMOTEGPU_AGENT_GPU_SOURCE",
        help="Where GPUs come from. auto and nvml: the NVIDIA driver, now or when it is installed "
        "later. simulated: made up, for demonstrations. none: report no GPUs.",
    ),
]
SimulatedSeed = Annotated[
    int | None,
    typer.Option(
        "--simulated-seed",
        envvar="REMOTEGPU_AGENT_SIMULATED_SEED",
        help="Equal seeds give equal simulated hosts. Default: derived from this host's key.",
        show_default=False,
        min=0,
    ),
]
Proxy = Annotated[
    str | None,
    typer.Option(
        "--proxy",
        envvar="REMOTEGPU_AGENT_PROXY",
        help="HTTP proxy to connect through, or auto for what HTTPS_PROXY says. Default: none.",
        show_default=False,
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"remotegpu-agent {agent_version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_version, is_eager=True
        ),
    ] = False,
) -> None:
    """The options before the command."""


@app.command()
def enroll(
    server: Annotated[
        str,
        typer.Option(
            "--server",
            envvar="REMOTEGPU_AGENT_SERVER",
            help="Address of the control plane, like https://gpu.example.org.",
        ),
    ],
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="REMOTEGPU_ENROLL_TOKEN",
            help="Enrolment token; - reads it from standard input. Other users of this host can "
            "see arguments: the variable or - keep it from them.",
            show_default=False,
        ),
    ] = None,
    state_dir: StateDir = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(
            "--ca-file",
            envvar="REMOTEGPU_AGENT_CA_FILE",
            help="Certificates (PEM) of a private authority to trust instead of the system's. "
            "Read at every start, so leave the file where it is.",
            show_default=False,
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Give an enrolled host a new key and another machine."),
    ] = False,
    gpu_source: GpuSourceOption = SourceKind.AUTO,
    simulated_seed: SimulatedSeed = None,
    proxy: Proxy = None,
) -> None:
    """Make this host a machine of a control plane, with a single-use token.

    Makes the host's key, which never leaves it, and registers its public half. If the answer gets
    lost, run the same command again.
    """
    from remotegpu_agent.enroll import enroll_host

    _check_proxy(proxy)
    if token == _STANDARD_INPUT:
        token = sys.stdin.readline()
    if token is None:
        raise SettingError(
            "No enrolment token: give --token TOKEN, --token - to read it from standard input, or "
            "set REMOTEGPU_ENROLL_TOKEN."
        )
    directory = _directory(state_dir)
    identity = asyncio.run(
        enroll_host(
            directory,
            server=server,
            token=token.strip(),
            ca_file=None if ca_file is None else ca_file.expanduser().absolute(),
            replace=replace,
            proxy=proxy,
            settings=SourceSettings(kind=gpu_source, seed=simulated_seed),
        )
    )
    typer.echo(f"Enrolled at {identity.origin} as machine {identity.machine_name}.")
    chosen = "" if state_dir is None else f" --state-dir {directory.path}"
    source = "" if gpu_source is SourceKind.AUTO else f" --gpu-source {gpu_source.value}"
    typer.echo(
        f"Next: remotegpu-agent run{chosen}{source}\n"
        "(or, with the packaged unit: systemctl enable --now remotegpu-agent)"
    )


@app.command()
def run(
    state_dir: StateDir = None,
    gpu_source: GpuSourceOption = SourceKind.AUTO,
    simulated_gpus: Annotated[
        int,
        typer.Option(
            "--simulated-gpus",
            envvar="REMOTEGPU_AGENT_SIMULATED_GPUS",
            help="How many GPUs a simulated host has.",
            min=0,
            max=64,
        ),
    ] = DEFAULT_COUNT,
    simulated_model: Annotated[
        str,
        typer.Option(
            "--simulated-model",
            envvar="REMOTEGPU_AGENT_SIMULATED_MODEL",
            help="Their model; its name decides on memory and power.",
        ),
    ] = DEFAULT_MODEL,
    simulated_seed: SimulatedSeed = None,
    driver_retry: Annotated[
        float,
        typer.Option(
            "--driver-retry",
            envvar="REMOTEGPU_AGENT_DRIVER_RETRY",
            help="Seconds between attempts to find a driver that is not there or does not work.",
            min=0.1,
        ),
    ] = 30.0,
    policy: Annotated[
        Path,
        typer.Option(
            "--policy",
            envvar="REMOTEGPU_AGENT_POLICY",
            help="What the control plane may do here (TOML), a file that root alone can write. "
            "Without it this host is monitored only. A simulated host, which only pretends, "
            "allows everything.",
        ),
    ] = Path("/etc/remotegpu/policy.toml"),
    proxy: Proxy = None,
    s3_ca_file: Annotated[
        Path | None,
        typer.Option(
            "--s3-ca-file",
            envvar="REMOTEGPU_AGENT_S3_CA_FILE",
            help="PEM file with authorities that are trusted for buckets in place of the system's; "
            "AWS_CA_BUNDLE, CURL_CA_BUNDLE and SSL_CERT_FILE do the same.",
            exists=True,
            dir_okay=False,
            readable=True,
            show_default=False,
        ),
    ] = None,
    log_level: Annotated[
        str,
        typer.Option(
            "--log-level",
            envvar="REMOTEGPU_AGENT_LOG_LEVEL",
            help=f"Least important lines to log: {', '.join(LEVELS)}.",
        ),
    ] = "info",
    log_format: Annotated[
        str,
        typer.Option(
            "--log-format",
            envvar="REMOTEGPU_AGENT_LOG_FORMAT",
            help="console for people, json for machines; to standard error either way.",
        ),
    ] = "console",
) -> None:
    """Keep the link to the control plane and report what this host is and does.

    Ends cleanly within 2 seconds of SIGTERM or Ctrl-C.
    """
    from remotegpu_agent.daemon import RunSettings, become_daemon

    if log_level not in LEVELS:
        raise SettingError(f"Expected a --log-level of {', '.join(LEVELS)}; got {log_level!r}.")
    if log_format not in {"console", "json"}:
        raise SettingError(f"Expected a --log-format of console or json; got {log_format!r}.")
    if not math.isfinite(driver_retry):
        raise SettingError(f"Expected a number of seconds as --driver-retry; got {driver_retry}.")
    _check_proxy(proxy)
    become_daemon(
        RunSettings(
            state_directory=str(_directory(state_dir).path),
            source=SourceSettings(
                kind=gpu_source,
                simulated_gpus=simulated_gpus,
                simulated_model=simulated_model,
                seed=simulated_seed,
                driver_retry=driver_retry,
            ),
            policy=str(policy.expanduser().absolute()),
            proxy=proxy,
            s3_ca_file=None if s3_ca_file is None else str(s3_ca_file.absolute()),
            log_level=log_level,
            log_format=log_format,
        )
    )


@app.command()
def status(
    state_dir: StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell which machine this host is and how its link is.

    Exit code 0: connected. 1: not connected. 2: not enrolled.
    """
    from remotegpu_agent.report import read_report

    report = read_report(_directory(state_dir))
    typer.echo(report.as_json() if as_json else report.as_text())
    raise typer.Exit(report.exit_code)


def _directory(chosen: Path | None) -> StateDirectory:
    return StateDirectory(chosen or default_state_directory())


def _check_proxy(proxy: str | None) -> None:
    from websockets.exceptions import InvalidProxy
    from websockets.proxy import parse_proxy

    if proxy is not None and proxy != "auto":
        try:
            parse_proxy(proxy)
        except (InvalidProxy, ValueError):
            # The reason that they give may repeat a password.
            raise SettingError(
                "The proxy cannot be used. Expected auto, or an address like "
                "http://proxy.example.org:3128, in --proxy or REMOTEGPU_AGENT_PROXY."
            ) from None


def _check_variables() -> None:
    """Raises SettingError for a variable that looks like one of ours and is none."""
    program = typer.main.get_command(app)
    commands = getattr(program, "commands", {}).values()
    known = {str(option.envvar) for command in commands for option in command.params}
    for name, value in sorted(os.environ.items()):
        if value and name.startswith(_PREFIX) and name not in known | _OTHERS:
            close = difflib.get_close_matches(name, known, n=1)
            meant = f"write {close[0]}, or " if close else ""
            raise SettingError(
                f"There is no setting {name}: {meant}remove it from the environment. `--help` of each "
                "command lists them."
            )


def main() -> NoReturn:
    """Run the program; what a user can cause ends in one line, not in a traceback."""
    try:
        _check_variables()
        app()
    except (AgentError, ProtocolError) as error:
        fail(error)
    sys.exit(0)
