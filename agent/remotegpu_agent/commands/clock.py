"""The control plane's clock, by which deadlines are told."""

import time

from remotegpu_agent.link import wall_clock
from remotegpu_protocol.agent_link import AgentLink


class ControlClock:
    """As the latest link heard it; before the first link, as the journal remembers it.

    Between two readings the monotonic clock goes on, so setting the host's clock moves nothing.
    """

    def __init__(self) -> None:
        self._link: AgentLink | None = None
        self._offset = 0

    def remember(self, offset: int) -> None:
        """What was stored: the control plane's clock minus ours, in milliseconds."""
        self._offset = offset

    def follow(self, link: AgentLink) -> None:
        """From now on, what this link hears; an ended one still tells, as a watch that runs on."""
        self._link = link

    @property
    def offset(self) -> int:
        """The control plane's clock minus ours."""
        return self.now() - wall_clock()

    def now(self) -> int:
        """Milliseconds since the Unix epoch."""
        if self._link is None:
            return wall_clock() + self._offset
        return self._link.server_time(time.monotonic())
