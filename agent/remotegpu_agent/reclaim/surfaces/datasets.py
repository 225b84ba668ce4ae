"""Data sets that were mounted for the allocation: taken away, and never looked into."""

from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_agent.datasets.datasets import Datasets
from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings, Obstacle
from remotegpu_agent.reclaim.tenancy import Tenancy
from remotegpu_protocol.surfaces import Surface


class MountedDatasets(BlockingStep):
    """By the agent's records, the mount table, and the directory that holds the account's mounts.

    Before everything that walks through files.
    """

    surface = Surface.DATASETS
    action = "unmounted"
    timeout = 120.0

    def __init__(self, tenancy: Tenancy, datasets: Datasets | None) -> None:
        super().__init__(tenancy)
        self._datasets = datasets

    def absence(self) -> str | None:
        return None if self._datasets is not None else "Nothing mounts data sets on this host."

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        if self._datasets is None:
            return findings
        try:
            for name in self._datasets.leftovers(self.tenancy.account.name):
                findings.add(name)
        except CommandFailed as error:
            raise Obstacle(error.message) from None
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        if self._datasets is None:
            return
        try:
            self._datasets.clear(self.tenancy.account.name, deadline.check)
        except CommandFailed as error:
            raise Obstacle(error.message) from None
