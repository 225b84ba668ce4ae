"""The process that talks to the NVIDIA driver, so that a driver call that hangs hangs only it.

Started by `nvml_process`; reads requests from standard input and ends with it. It imports as
little as it can: its memory is counted together with the agent's.
"""

import ctypes
import os
import signal
import sys
from typing import BinaryIO, Final

import pynvml

from remotegpu_agent.sources.nvml_calls import DRIVER_ERRORS, Card, code_of, describe, raw
from remotegpu_agent.sources.nvml_inventory import read_card
from remotegpu_agent.sources.nvml_sample import sample_card
from remotegpu_agent.sources.nvml_wire import (
    LENGTH_BYTES,
    DriverLost,
    InventoryReply,
    InventoryRequest,
    Reply,
    Request,
    SampleReply,
    SickGpu,
    decode_request,
    frame,
)
from remotegpu_agent.sources.processes import ProcessNames
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.inventory import DriverState
from remotegpu_protocol.limits import MAX_GPUS

_LIBRARY: Final = "libnvidia-ml.so.1"

#: prctl(2).
_PR_SET_PDEATHSIG: Final = 1


class Worker:
    """NVML between one initialisation and the next."""

    def __init__(self) -> None:
        self._initialised = False
        self._names = ProcessNames()

    def answer(self, request: Request) -> Reply:
        if isinstance(request, InventoryRequest):
            return self.inventory(fresh=request.fresh)
        return self.sample()

    def inventory(self, *, fresh: bool) -> Reply:
        if fresh and self._initialised:
            self._shut_down()
        if not self._initialised:
            try:
                pynvml.nvmlInit()
            except pynvml.NVMLError as error:
                return _not_initialised(error)
            self._initialised = True
        try:
            cards = _open_cards()
        except pynvml.NVMLError as error:
            self._shut_down()
            return InventoryReply(DriverState.FAILED, describe(error))
        gpus = [gpu for gpu in map(read_card, cards) if gpu is not None]
        if _driver_failed(cards):
            self._shut_down()
            return InventoryReply(DriverState.FAILED, cards[0].sick)
        return InventoryReply(
            DriverState.READY,
            driver_version=_driver_version(),
            cuda_version=_cuda_version(),
            gpus=gpus,
            sick=[SickGpu(card.index, card.sick or "") for card in cards if card.uuid is None],
            remarks=[remark for card in cards for remark in card.remarks],
        )

    def sample(self) -> Reply:
        if not self._initialised:
            return DriverLost("NVML is not initialised.")
        try:
            cards = _open_cards()
        except pynvml.NVMLError as error:
            if code_of(error) in DRIVER_ERRORS:
                return DriverLost(describe(error))
            return DriverLost(f"The driver cannot count its GPUs: {describe(error)}.")
        samples = [sample_card(card, self._names) for card in cards]
        if _driver_failed(cards):
            return DriverLost(cards[0].sick or "")
        return SampleReply(
            gpus=[sample for sample in samples if sample is not None],
            sick=[
                SickGpu(card.index, card.sick, card.uuid) for card in cards if card.sick is not None
            ],
            remarks=[remark for card in cards for remark in card.remarks],
        )

    def _shut_down(self) -> None:
        self._initialised = False
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:
            # Nothing depends on it: the next initialisation says how the driver is.
            return


def _open_cards() -> list[Card]:
    count = min(int(pynvml.nvmlDeviceGetCount()), MAX_GPUS)
    cards = [Card(index) for index in range(count)]
    for card in cards:
        card.open()
    return cards


def _driver_failed(cards: list[Card]) -> bool:
    return bool(cards) and all(card.driver_failed for card in cards)


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
