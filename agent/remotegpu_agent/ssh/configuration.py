"""How sshd is configured, as `sshd -T` says it, with `Match` blocks and included files applied."""

import ipaddress
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from remotegpu_protocol.grammar import clean_text

#: Seconds that sshd may take to say how it is configured.
_PATIENCE: Final = 5


class NoAnswer(Exception):
    """sshd did not say how it is configured; the text is what it said instead."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A sign-in as `user` from the address `source`, for `Match` blocks."""

    user: str
    source: str
    to_address: str
    to_port: int

    @property
    def specification(self) -> str:
        return (
            f"user={self.user},host={self.source},addr={self.source},laddr={self.to_address},"
            f"lport={self.to_port},rdomain="
        )


@dataclass(frozen=True, slots=True)
class Configuration:
    """Values by the lower-case keyword; several of a keyword that sshd prints line by line."""

    values: dict[str, list[str]]

    def all(self, keyword: str) -> list[str]:
        return self.values.get(keyword, [])

    def one(self, keyword: str) -> str:
        """Its first value; empty where this version of sshd prints none."""
        return next(iter(self.all(keyword)), "")

    def says(self, keyword: str, value: str) -> bool:
        return self.one(keyword).lower() == value

    @property
    def listeners(self) -> list[tuple[str, int]]:
        """Address and port, in sshd's order."""
        return [found for text in self.all("listenaddress") if (found := _listener(text))]


def ask(sshd: Path, file: Path, connection: Connection | None = None) -> Configuration:
    """What applies to the connection; without one, what applies outside of `Match` blocks.

    Raises NoAnswer: sshd cannot read the file or a host key, or never ran.
    """
    asked = [] if connection is None else ["-C", connection.specification]
    try:
        said = subprocess.run(  # noqa: S603 - the host's own sshd, no shell
            [sshd, "-T", "-f", file, *asked],
            check=True,
            capture_output=True,
            timeout=_PATIENCE,
            stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        ).stdout
    except subprocess.CalledProcessError as error:
        raise NoAnswer(clean_text(error.stderr, 500)) from None
    except (OSError, subprocess.SubprocessError) as error:
        raise NoAnswer(clean_text(str(error), 500)) from None
    values: dict[str, list[str]] = {}
    for line in os.fsdecode(said).splitlines():
        keyword, _, value = line.partition(" ")
        if value:
            values.setdefault(keyword, []).append(value)
    return Configuration(values)


def _listener(text: str) -> tuple[str, int] | None:
    """`0.0.0.0:22` and `[::]:22`, as sshd prints them; names are printed as addresses."""
    address, _, port = text.rpartition(":")
    try:
        found = str(ipaddress.ip_address(address.strip("[]").partition("%")[0]))
    except ValueError:
        return None
    known = port.isascii() and port.isdigit() and 0 < int(port) < 65_536
    return (found, int(port)) if known else None
