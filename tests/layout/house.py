"""Where things are, and what pyproject.toml says of them."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]

#: Import package by component folder.
PACKAGES = {
    "protocol": "remotegpu_protocol",
    "core": "remotegpu_core",
    "providers": "remotegpu_providers",
    "graphql": "remotegpu_graphql",
    "api": "remotegpu_api",
    "agent": "remotegpu_agent",
}

STATIC = ROOT / "api/remotegpu_api/static"


@cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def declared(extra: str) -> list[Requirement]:
    """What installing `remotegpu[extra]` asks for by name, the extras that it includes resolved."""
    found: list[Requirement] = []
    todo = [*project()["project"]["dependencies"]]
    todo += project()["project"]["optional-dependencies"][extra]
    for text in todo:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) == "remotegpu":
            for included in requirement.extras:
                found += declared(included)
        else:
            found.append(requirement)
    return found


def locked(name: str) -> dict[str, str]:
    """Version by canonical name in requirements/<name>.txt."""
    versions: dict[str, str] = {}
    for line in (ROOT / f"requirements/{name}.txt").read_text().splitlines():
        if line and not line.startswith((" ", "#")):
            requirement = Requirement(line.removesuffix("\\"))
            [pin] = requirement.specifier
            assert pin.operator == "==", line
            versions[canonicalize_name(requirement.name)] = pin.version
    return versions
