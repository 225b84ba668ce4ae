"""XID errors: what the driver says about a card by itself. Runs in the worker.

NVML queues them from the time on at which a card is registered, and loses them with the process:
https://docs.nvidia.com/deploy/nvml-api/group__nvmlEvents.html
"""

import ctypes
from typing import Any, Final

import pynvml

from remotegpu_agent.sources.nvml_calls import Card
from remotegpu_agent.sources.nvml_wire import XidEvent

#: Events that are taken at once; the rest waits for the next sample.
_MOST: Final = 64

#: What NVML says of the instance where the error concerns no instance of MIG.
_NO_INSTANCE: Final = 2**32 - 1


class XidEvents:
    """The event set of one initialisation of NVML. Where a driver has no events, there are none."""

    def __init__(self) -> None:
        self._set: Any = None
        self._uuids: dict[int, str] = {}

    def watch(self, card: Card) -> None:
        """Have the driver queue the card's errors from now on; once is enough."""
        address = _address(card.handle)
        if card.uuid is None or card.sick is not None or address in self._uuids:
            return
        if self._set is None:
            try:
                self._set = pynvml.nvmlEventSetCreate()
            except pynvml.NVMLError:
                return
        kind = pynvml.nvmlEventTypeXidCriticalError
        try:
            pynvml.nvmlDeviceRegisterEvents(card.handle, kind, self._set)
        except pynvml.NVMLError:
            # Not supported by this card, or by this user's rights: it has none.
            return
        self._uuids[address] = card.uuid

    def take(self) -> list[XidEvent]:
        """What was queued since the last time, without waiting."""
        events: list[XidEvent] = []
        while self._set is not None and len(events) < _MOST:
            try:
                event = pynvml.nvmlEventSetWait_v2(self._set, 0)
            except pynvml.NVMLError:
                # Usually a timeout: there is no more. A card that is lost shows in its sample.
                break
            # By its handle and not by asking: a card that fell off the bus answers nothing.
            uuid = self._uuids.get(_address(event.device))
            if uuid is not None and int(event.eventType) & pynvml.nvmlEventTypeXidCriticalError:
                instance = int(event.gpuInstanceId)
                events.append(
                    XidEvent(
                        uuid,
                        min(int(event.eventData), _NO_INSTANCE),
                        None if instance == _NO_INSTANCE else instance,
                    )
                )
        return events

    def close(self) -> None:
        """Before NVML is shut down."""
        if self._set is not None:
            try:
                pynvml.nvmlEventSetFree(self._set)
            except pynvml.NVMLError:
                return
            finally:
                self._set = None
                self._uuids.clear()


def _address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
