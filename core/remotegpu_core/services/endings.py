"""Why a link is over that is not the machine's newest connection any more."""

import uuid

from remotegpu_core.models import Machine
from remotegpu_core.states import Lifecycle
from remotegpu_protocol.errors import HostAccepted, ProtocolError, Revoked, Superseded

RETIRED = "This machine was retired. Enrol the host as a new machine (enroll --replace) to use it."
REPLACED = (
    "The host was enrolled anew, which revoked this key. If this is another host, enrol it as a "
    "machine of its own."
)


async def why_over(machine_id: uuid.UUID, epoch: int, public_key: bytes) -> ProtocolError:
    """For the connection `epoch` that was verified by `public_key`."""
    machine = await Machine.get_or_none(id=machine_id)
    if machine is None:
        return Revoked("This machine was removed; enrol the host again.")
    if machine.lifecycle is Lifecycle.RETIRED:
        return Revoked(RETIRED)
    if bytes(machine.public_key) != public_key:
        return Revoked(REPLACED)
    if epoch < machine.accepted_epoch == machine.epoch:
        return HostAccepted("An administrator accepted this host: connect again.")
    return Superseded("A newer connection of this machine took over.")
