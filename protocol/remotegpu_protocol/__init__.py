"""The messages between a host agent and the control plane, and the rules both ends keep.

Nothing here opens a socket, reads a clock or touches a disk: both ends are pure state machines
that a thin shell drives. `docs/protocol.md` describes the wire for authors of other agents.
"""

from remotegpu_protocol.limits import SUBPROTOCOL, SUPPORTED_VERSIONS

__all__ = ["SUBPROTOCOL", "SUPPORTED_VERSIONS"]
