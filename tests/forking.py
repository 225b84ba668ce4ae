"""Processes for tests in which many die: forked from one that has the modules already."""

from multiprocessing import get_context

CONTEXT = get_context("forkserver")
# There is one such process, so whoever starts it first says what is in it for all.
CONTEXT.set_forkserver_preload(
    ["tests.agent.commands.mortal", "tests.agent.reclaim.doomed", "tests.api.doomed"]
)
