"""Tests of data sets run on a host of their own, as those of cleaning do."""

from tests.agent.reclaim.conftest import pytest_configure, pytest_pyfunc_call

__all__ = ["pytest_configure", "pytest_pyfunc_call"]
