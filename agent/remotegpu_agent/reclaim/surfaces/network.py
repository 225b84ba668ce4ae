"""Port mappings and firewall rules of the allocation."""

from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings


class Ports(BlockingStep):
    surface = "port mappings and firewall rules"

    def absence(self) -> str | None:
        return "This agent maps no ports and writes no firewall rules, so there are none to remove."

    def look_now(self, deadline: Deadline) -> Findings:
        return Findings()

    def remove_now(self, deadline: Deadline) -> None:
        """Nothing is ever there."""
