"""The version that the agent tells the control plane."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def agent_version() -> str:
    """The installed distribution's version; a bare source tree has none."""
    try:
        return version("remotegpu")
    except PackageNotFoundError:
        return "0+unknown"
