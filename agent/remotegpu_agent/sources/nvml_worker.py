"""The process that talks to the NVIDIA driver, so that a driver call that hangs hangs only it.

Started by `nvml_process`; reads requests from standard input and ends with it. It imports as
little as it can: its memory is counted together with the agent's.
"""

import ctypes
import functools
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import BinaryIO, Final, TypeVar

import pynvml

from remotegpu_agent.sources.nvml_calls import DRIVER_ERRORS, Card, code_of, describe, raw
from remotegpu_agent.sources.nvml_events import XidEvents
from remotegpu_agent.sources.nvml_inventory import read_card
from remotegpu_agent.sources.nvml_process_lists import ProcessLists
from remotegpu_agent.sources.nvml_readers import LIMIT, Readers
from remotegpu_agent.sources.nvml_sample import sample_card
from remotegpu_agent.sources.nvml_settings import tune_card
from remotegpu_agent.sources.nvml_wire import (
    LENGTH_BYTES,
    DriverLost,
    HungGpu,
    InventoryReply,
    InventoryRequest,
    Reply,
    Request,
    SampleReply,
    SampleRequest,
    SickGpu,
    XidEvent,
    decode_request,
    frame,
)
from remotegpu_agent.sources.processes import ProcessNames
from remotegpu_agent.sources.settings import SettingsReply, Tuning, asked_about
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.inventory import DriverState, GpuInventory
from remotegpu_protocol.limits import MAX_GPUS
from remotegpu_protocol.metrics import GpuMetrics

T = TypeVar("T")
_Described = tuple[Card, GpuInventory | None]
_Sampled = tuple[Card, GpuMetrics | None]

_LIBRARY: Final = "libnvidia-ml.so.1"

#: prctl(2).
_PR_SET_PDEATHSIG: Final = 1

#: mallopt(3): one heap for all threads, since each new one would keep memory of its own.
_M_ARENA_MAX: Final = -8

#: Seconds that cards may take to say what they are when nothing is known of them yet.
_FIRST_LIMIT: Final = 5.0

#: Seconds that cards may take to be set to something.
_TUNING_LIMIT: Final = 10.0

#: A name in place of a card's index: the queue of events may hang like a card.
_EVENTS: Final = -1


class Worker:
    """NVML between one initialisation and the next."""

    def __init__(self) -> None:
        self._initialised = False
        self._names = ProcessNames()
        self._lists = ProcessLists(None)
        self._events = XidEvents()
        self._inventories: Readers[_Described] = Readers()
        self._samples: Readers[_Sampled] = Readers()
        self._drained: Readers[list[XidEvent]] = Readers()
        #: What a card that hangs was called when it still answered.
        self._uuids: dict[int, str] = {}

    def answer(self, request: Request) -> Reply:
        if isinstance(request, InventoryRequest):
            return self.inventory(fresh=request.fresh)
        if isinstance(request, SampleRequest):
            return self.sample()
        return self.tune(request)

    def inventory(self, *, fresh: bool) -> Reply:
        # Who shuts down while a call hangs waits for it.
        if fresh and self._initialised and not self._any_hung:
            self._shut_down()
        limit = LIMIT
        if not self._initialised:
            try:
                pynvml.nvmlInit()
            except pynvml.NVMLError as error:
                return _not_initialised(error)
            self._initialised, limit = True, _FIRST_LIMIT
            self._lists = ProcessLists(_driver_version())
        try:
            count = _count()
        except pynvml.NVMLError as error:
            self._shut_down()
            return InventoryReply(DriverState.FAILED, describe(error))
        read = self._inventories.read(self._jobs(count, self._describe), limit=limit)
        cards = [card for card, _ in read.values()]
        if _driver_failed(cards, count):
            self._shut_down()
            return InventoryReply(DriverState.FAILED, cards[0].sick)
        return InventoryReply(
            DriverState.READY,
            driver_version=_driver_version(),
            cuda_version=_cuda_version(),
            gpus=[gpu for _, gpu in read.values() if gpu is not None],
            sick=[SickGpu(card.index, card.sick or "") for card in cards if card.uuid is None],
            hung=self._hung(count, read),
            remarks=[remark for card in cards for remark in card.remarks],
        )

    def sample(self) -> Reply:
        if not self._initialised:
            return DriverLost("NVML is not initialised.")
        try:
            count = _count()
        except pynvml.NVMLError as error:
            if code_of(error) in DRIVER_ERRORS:
                return DriverLost(describe(error))
            return DriverLost(f"The driver cannot count its GPUs: {describe(error)}.")
        read = self._samples.read(self._jobs(count, self._sample))
        cards = [card for card, _ in read.values()]
        if _driver_failed(cards, count):
            return DriverLost(cards[0].sick or "")
        return SampleReply(
            gpus=[sample for _, sample in read.values() if sample is not None],
            sick=[
                SickGpu(card.index, card.sick, card.uuid) for card in cards if card.sick is not None
            ],
            hung=self._hung(count, read),
            xids=self._drained.read({_EVENTS: self._events.take}).get(_EVENTS, []),
            remarks=[remark for card in cards for remark in card.remarks],
        )

    def tune(self, request: Tuning) -> Reply:
        """Read or set what cards are set to; each that is asked about is in the answer."""
        if not self._initialised:
            return DriverLost("NVML is not initialised.")
        try:
            count = _count()
        except pynvml.NVMLError as error:
            return DriverLost(f"The driver cannot count its GPUs: {describe(error)}.")
        # Of its own: what came too late must not answer another question.
        readers: Readers[SettingsReply | None] = Readers()
        jobs = self._jobs(count, functools.partial(_tune, request))
        replies = [reply for reply in readers.read(jobs, limit=_TUNING_LIMIT).values() if reply]
        settings = {uuid: found for reply in replies for uuid, found in reply.settings.items()}
        failed = {uuid: why for reply in replies for uuid, why in reply.failed.items()}
        without = [uuid for reply in replies for uuid in reply.without]
        for uuid in asked_about(request):
            if uuid not in settings and uuid not in failed:
                failed[uuid] = "The driver does not answer for this GPU, or does not know it."
        return SettingsReply(settings, failed, without)

    @property
    def _any_hung(self) -> bool:
        return self._inventories.any_hung or self._samples.any_hung or self._drained.any_hung

    def _jobs(self, count: int, job: Callable[[int], T]) -> dict[int, Callable[[], T]]:
        return {index: functools.partial(job, index) for index in range(count)}

    def _describe(self, index: int) -> _Described:
        card = Card(index)
        card.open()
        gpu = read_card(card)
        self._events.watch(card)
        return card, gpu

    def _sample(self, index: int) -> _Sampled:
        card = Card(index)
        card.open()
        return card, sample_card(card, self._names, self._lists)

    def _hung(self, count: int, read: Mapping[int, tuple[Card, object]]) -> list[HungGpu]:
        for index, (card, _) in read.items():
            if card.uuid is not None:
                self._uuids[index] = card.uuid
        return [
            HungGpu(index, self._uuids.get(index)) for index in range(count) if index not in read
        ]

    def _shut_down(self) -> None:
        self._initialised = False
        self._events.close()
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:
            # Nothing depends on it: the next initialisation says how the driver is.
            return


def _tune(request: Tuning, index: int) -> SettingsReply | None:
    card = Card(index)
    card.open()
    return tune_card(card, request)


def _count() -> int:
    return min(int(pynvml.nvmlDeviceGetCount()), MAX_GPUS)


def _driver_failed(cards: list[Card], count: int) -> bool:
    return 0 < len(cards) == count and all(card.driver_failed for card in cards)


def _not_initialised(error: pynvml.NVMLError) -> InventoryReply:
    if code_of(error) != pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        return InventoryReply(DriverState.FAILED, describe(error))
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError as reason:
        # pynvml says the same of a library that is not there and of one that does not load.
        if "No such file" not in str(reason):
            return InventoryReply(DriverState.FAILED, clean_text(str(reason), 500))
    return InventoryReply(
        DriverState.ABSENT,
        f"No NVIDIA driver on this host: {_LIBRARY} is not there. It is looked for again, so a "
        "driver installed later is found.",
    )


def _driver_version() -> str | None:
    try:
        return clean_text(raw(pynvml.nvmlSystemGetDriverVersion)()) or None
    except pynvml.NVMLError:
        return None


def _cuda_version() -> str | None:
    try:
        version = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
    except pynvml.NVMLError:
        return None
    # 12080 is CUDA 12.8 (NVML_CUDA_DRIVER_VERSION_MAJOR and _MINOR).
    return f"{version // 1000}.{version % 1000 // 10}" if 0 < version < 1_000_000 else None


def _serve(requests: BinaryIO, replies: BinaryIO) -> None:
    worker = Worker()
    while length := requests.read(LENGTH_BYTES):
        payload = requests.read(int.from_bytes(length, "big"))
        replies.write(frame(worker.answer(decode_request(payload))))
        replies.flush()


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, in the middle of a call too."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("The agent ended while this worker started.")
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)
    if hasattr(libc, "malloc_trim"):
        # Importing left half of the heap unused (glibc keeps it otherwise).
        libc.malloc_trim(0)


def main() -> None:
    # Ctrl-C goes to the whole foreground group; the agent decides when its worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with(int(sys.argv[1]))
    # Driver libraries write to standard output as they please: give them standard error.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
