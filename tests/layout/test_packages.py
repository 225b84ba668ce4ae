"""Every package is where it belongs, is typed, and comes with the wheel."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.layout.house import PACKAGES, ROOT, STATIC, project


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in the wheel that hatchling builds from this checkout, without any network."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [path] = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize(("folder", "package"), PACKAGES.items())
def test_a_component_folder_holds_one_typed_package(folder: str, package: str) -> None:
    assert [path.parent.name for path in (ROOT / folder).glob("*/__init__.py")] == [package]
    assert not (ROOT / folder / "__init__.py").exists()
    assert (ROOT / folder / package / "py.typed").is_file()


def test_pyproject_names_every_package() -> None:
    build = project()["tool"]["hatch"]["build"]
    assert set(build["dev-mode-dirs"]) == set(PACKAGES)
    assert set(build["targets"]["wheel"]["packages"]) == {
        f"{folder}/{package}" for folder, package in PACKAGES.items()
    }
    assert set(project()["tool"]["importlinter"]["root_packages"]) == set(PACKAGES.values())


@pytest.mark.parametrize(("folder", "package"), PACKAGES.items())
def test_the_wheel_holds_every_module(wheel: set[str], folder: str, package: str) -> None:
    modules = {
        str(path.relative_to(ROOT / folder)) for path in (ROOT / folder / package).rglob("*.py")
    }
    assert modules <= wheel
    assert f"{package}/py.typed" in wheel


def test_the_wheel_holds_what_browsers_are_served(wheel: set[str]) -> None:
    assets = {str(path.relative_to(ROOT / "api")) for path in STATIC.rglob("*") if path.is_file()}
    assert "remotegpu_api/static/vendor/graphiql.min.js" in assets
    assert assets <= wheel


def test_the_wheel_holds_nothing_else(wheel: set[str]) -> None:
    assert {Path(name).parts[0] for name in wheel} == {
        *PACKAGES.values(),
        f"remotegpu-{project()['project']['version']}.dist-info",
    }
