"""Log lines of a real process, as a person and as a program reads them."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import logging, structlog
from remotegpu_agent.logs import configure_logs
configure_logs({level!r}, {form!r})
log = structlog.get_logger("test")
log.debug("too little")
log.info("first", machine="nöde")
logging.getLogger("library").warning("from %s", "logging")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("broken")
"""


def lines(level: str, form: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(level=level, form=form)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_is_one_object_a_line() -> None:
    found = [json.loads(line) for line in lines("info", "json")]
    assert [line["event"] for line in found] == ["first", "from logging", "broken"]
    assert found[0]["machine"] == "nöde"
    assert found[0]["level"] == "info"
    assert "ZeroDivisionError" in found[2]["exception"]


def test_a_log_that_cannot_be_written_ends_nothing() -> None:
    script = SCRIPT.format(level="info", form="json") + "print('still here')"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            check=True,
            timeout=60,
        )
    assert done.stdout == "still here\n"


def test_console_is_for_people() -> None:
    found = lines("warning", "console")
    assert "from logging" in found[0]
    assert "\x1b" not in "".join(found)
    assert found[-1].startswith("ZeroDivisionError")
