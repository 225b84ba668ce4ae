"""Calling NVML so that one field's error stays one field's error. Runs in the worker.

NVML's return codes: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceEnumvs.html
"""

import ctypes
from collections.abc import Callable
from typing import Any, Final

import pynvml

from remotegpu_agent.sources.nvml_wire import Remark
from remotegpu_protocol.grammar import clean_text

#: The card as a whole is of no use any more.
_CARD_ERRORS: Final = frozenset(
    {
        pynvml.NVML_ERROR_TIMEOUT,
        pynvml.NVML_ERROR_IRQ_ISSUE,
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_RESET_REQUIRED,
        pynvml.NVML_ERROR_GPU_NOT_FOUND,
    }
)

#: The driver as a whole is; each card says so.
DRIVER_ERRORS: Final = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    }
)

#: The field or the card. Some drivers answer a single exotic field so for good.
_AMBIGUOUS_ERRORS: Final = frozenset(
    {pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_OPERATING_SYSTEM}
)

#: Fields with an ambiguous error from which on it is the card.
_AMBIGUOUS_FIELDS: Final = 2


def code_of(error: Any) -> int:
    """NVML's return code; pynvml sets it where type checkers do not look."""
    return int(error.value)


def describe(error: pynvml.NVMLError) -> str:
    """NVML's own words. pynvml would decode them, and fail on bytes that are not UTF-8."""
    known: dict[int, str] = pynvml.NVMLError._errcode_to_string  # noqa: SLF001 - its only table
    text = known.get(code_of(error))
    if text is None:
        try:
            text = clean_text(raw(pynvml.nvmlErrorString)(code_of(error)) or b"")
        except pynvml.NVMLError:
            text = ""
    return f"{text or 'NVML error'} (NVML {code_of(error)})"


def raw(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function below pynvml's decorators: strings stay bytes, errors stay NVMLError."""
    undecorated: Callable[..., Any] = getattr(function, "__wrapped__", function)
    return undecorated


class Card:
    """One card during one reading.

    `sick` is why it is of no use, once a call said so; calls after that are not made, since
    each may take the driver seconds to fail.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.uuid: str | None = None
        self.sick: str | None = None
        self.driver_failed = False
        self.remarks: list[Remark] = []
        self.handle: Any = None
        self._ambiguous: dict[str, None] = {}

    def open(self) -> None:
        """Get the handle and the UUID, without which nothing else makes sense."""
        try:
            self.handle = pynvml.nvmlDeviceGetHandleByIndex(self.index)
            uuid = clean_text(raw(pynvml.nvmlDeviceGetUUID)(self.handle), 128)
        except pynvml.NVMLError as error:
            self._give_up(error)
        else:
            self.uuid = uuid or None
            if not uuid:
                self.sick = "The driver gives no UUID."

    def read(self, field: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """What `function(handle, *arguments)` returns, or None where it fails."""
        return self.read_of(self.handle, field, function, *arguments)

    def read_of(
        self, handle: Any, field: str, function: Callable[..., Any], *arguments: Any
    ) -> Any:
        """Like `read`, of a part of the card that has a handle of its own."""
        if self.sick is not None:
            return None
        try:
            return raw(function)(handle, *arguments)
        except pynvml.NVMLError as error:
            if code_of(error) in _CARD_ERRORS or code_of(error) in DRIVER_ERRORS:
                self._give_up(error)
            elif code_of(error) in _AMBIGUOUS_ERRORS:
                # An older name of the same field does not make it two.
                self._ambiguous[field] = None
                self.remark(field, f"NVML answers {describe(error)} for {field}.")
                if len(self._ambiguous) >= _AMBIGUOUS_FIELDS:
                    self.sick = f"{describe(error)}, for {' and '.join(self._ambiguous)}."
        except (UnicodeDecodeError, ValueError, ctypes.ArgumentError) as error:
            self.remark(field, f"The driver's {field} cannot be read: {error}.")
        return None

    def remark(self, field: str, text: str) -> None:
        self.remarks.append(
            Remark(self.uuid or f"index {self.index}", field, clean_text(text, 500))
        )

    def _give_up(self, error: pynvml.NVMLError) -> None:
        self.driver_failed = code_of(error) in DRIVER_ERRORS
        self.sick = describe(error)
