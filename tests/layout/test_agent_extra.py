"""`remotegpu[agent]` puts nothing of the control plane on a GPU host, and is enough to run there."""

import subprocess
import sys
from importlib.metadata import packages_distributions

from packaging.utils import canonicalize_name

from tests.layout.house import declared, locked

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
at_start = set(sys.modules)
import remotegpu_agent
for module in pkgutil.walk_packages(remotegpu_agent.__path__, "remotegpu_agent."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
loaded = {name.partition(".")[0] for name in set(sys.modules) - at_start}
print(*loaded - set(sys.stdlib_module_names))
"""


def test_its_closure_holds_no_library_of_the_control_plane() -> None:
    shared = {canonicalize_name(requirement.name) for requirement in declared("agent")}
    control_plane = {canonicalize_name(requirement.name) for requirement in declared("api")}
    only_control_plane = control_plane - shared
    assert {"strawberry-graphql", "starlette", "tortoise-orm", "redis"} <= only_control_plane
    assert only_control_plane & set(locked("agent")) == set()


def test_the_agent_imports_only_what_it_installs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING], check=True, capture_output=True, text=True
    )
    distributions = packages_distributions()
    used = {
        canonicalize_name(distribution)
        for name in done.stdout.split()
        for distribution in distributions.get(name, [])
    }
    assert "websockets" in used
    assert used - {"remotegpu"} <= set(locked("agent"))
