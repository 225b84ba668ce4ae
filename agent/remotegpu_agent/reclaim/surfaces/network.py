"""Port mappings and firewall rules of the allocation."""

from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings
from remotegpu_protocol.surfaces import Surface


class Ports(BlockingStep):
    surface = Surface.PORTS

    def absence(self) -> str | None:
        return "This agent maps no ports and writes no firewall rules, so there are none to remove."

    def look_now(self, deadline: Deadline) -> Findings:
        return Findings()

    def remove_now(self, deadline: Deadline) -> None:
        """Nothing is ever there."""
