"""`python -m bench [--quick]`: run all benchmarks, print the tables, write bench/RESULTS.md.

A quick run only prints them, unless it is told to `--write`.
"""

import argparse
import logging
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from bench.cores import CLIENT, SERVER, TooFewCores, check_cores, stay_with_the_load
from bench.machine import describe
from bench.plan import FULL, QUICK, Plan
from bench.report import report
from bench.results import Results
from bench.run import Run
from bench.workspace import CannotBuild, workspace

_RESULTS: Final = Path(__file__).with_name("RESULTS.md")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter and with fewer peers")
    parser.add_argument(
        "--write", action="store_true", help="write RESULTS.md after a quick run too"
    )
    chosen = parser.parse_args()
    plan = QUICK if chosen.quick else FULL
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    machine = describe()
    begun = time.monotonic()
    try:
        check_cores()
        stay_with_the_load()
        with workspace() as space:
            run = Run(space, plan, _say)
            run.everything()
    except (TooFewCores, CannotBuild) as error:
        sys.exit(str(error))
    text = _whole(run.results, plan, machine, time.monotonic() - begun)
    sys.stdout.write(f"\n{text}\n")
    if chosen.write or not chosen.quick:
        _RESULTS.write_text(text)
        sys.stdout.write(f"Written to {_RESULTS}.\n")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _whole(results: Results, plan: Plan, machine: list[str], seconds: float) -> str:
    described = "\n".join(f"- {line}" for line in machine)
    return f"""# Benchmark results

Written by `make bench` on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC ({plan.name} run, \
{seconds / 60:.1f} minutes). docs/performance.md says how to read it.

Server on core {SERVER}; load client, Redis and everything else on core {CLIENT}. Medians of \
{plan.rounds * plan.windows} windows or more, each with its least and greatest; the columns \
"RemoteGPU's" give RemoteGPU's median as a multiple of that server's. Only ratios from one run mean \
anything.

{described}

{report(results)}"""


if __name__ == "__main__":
    main()
