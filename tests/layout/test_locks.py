"""requirements/*.txt install the same from any registry, and fit pyproject.toml."""

import re

import pytest
from packaging.utils import canonicalize_name

from tests.layout.house import ROOT, declared, locked, project

LOCKS = ["agent", "api", "build", "client-ariadne", "client-gql", "dev"]


def test_every_lock_is_known_here() -> None:
    assert sorted(path.stem for path in (ROOT / "requirements").glob("*.txt")) == LOCKS


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_no_address_and_no_path(name: str) -> None:
    text = (ROOT / f"requirements/{name}.txt").read_text()
    assert re.findall(r"\S*://\S*|--(?!hash=)\S+|(?<=\s)/\S+", text) == []


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_has_hashes(name: str) -> None:
    lines = (ROOT / f"requirements/{name}.txt").read_text().splitlines()
    pins = [number for number, line in enumerate(lines) if re.match(r"\w", line)]
    assert pins
    for number in pins:
        assert "--hash=sha256:" in lines[number + 1], lines[number]


@pytest.mark.parametrize("extra", ["agent", "api", "dev"])
def test_a_lock_fits_what_pyproject_asks_for(extra: str) -> None:
    versions = locked(extra)
    stale = [
        str(requirement)
        for requirement in declared(extra)
        if not requirement.specifier.contains(
            versions.get(canonicalize_name(requirement.name), "0"), prereleases=True
        )
    ]
    assert stale == [], "run `make lock`"


@pytest.mark.parametrize("name", ["agent", "api", "build"])
def test_one_version_of_everything(name: str) -> None:
    assert locked(name).items() <= locked("dev").items()


def test_the_build_backend_is_locked() -> None:
    names = {re.split(r"[<>=]", line)[0] for line in project()["build-system"]["requires"]}
    assert names <= set(locked("build"))
