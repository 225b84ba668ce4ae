"""The folder `graphql` must never be taken for graphql-core."""

from importlib.metadata import version
from pathlib import Path

import graphql

from tests.layout.house import ROOT


def test_import_graphql_is_graphql_core() -> None:
    assert graphql.__version__ == version("graphql-core")
    assert not Path(graphql.__file__).is_relative_to(ROOT / "graphql")


def test_the_folder_holds_the_package_and_the_sdl_only() -> None:
    found = {path.name for path in (ROOT / "graphql").iterdir()} - {"__pycache__"}
    assert "remotegpu_graphql" in found
    assert found <= {"remotegpu_graphql", "schema.graphql"}


def test_no_test_package_is_called_graphql() -> None:
    assert not (ROOT / "tests/graphql").exists()
