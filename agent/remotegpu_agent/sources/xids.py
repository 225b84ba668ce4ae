"""XID errors in words, and which of them say something about the card.

Numbers and names: https://docs.nvidia.com/deploy/xid-errors/index.html
"""

from typing import Final

#: Raised by what runs on the card, not by the card: those that NVIDIA's device plugin for
#: Kubernetes leaves out of its health check too (internal/rm/health.go).
_OF_APPLICATIONS: Final = frozenset({13, 31, 43, 45, 68, 109})

_NAMES: Final = {
    13: "graphics engine exception",
    31: "memory page fault",
    32: "corrupted push buffer stream",
    38: "driver firmware error",
    43: "GPU stopped processing",
    45: "preemptive cleanup, due to previous errors",
    48: "double-bit ECC error",
    61: "internal micro-controller breakpoint or warning",
    62: "internal micro-controller halt",
    63: "ECC page retirement or row remapping recorded",
    64: "ECC page retirement or row remapping failed",
    68: "NVDEC exception",
    69: "graphics engine class error",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    92: "high single-bit ECC error rate",
    94: "contained ECC error",
    95: "uncontained ECC error",
    109: "context switch timeout",
    119: "GSP RPC timeout",
    120: "GSP error",
    140: "unrecovered ECC error",
}


def concerns_the_card(xid: int) -> bool:
    """Whether the card may be at fault, and not only the program that used it."""
    return xid not in _OF_APPLICATIONS


def describe_xid(xid: int, gpu_instance: int | None = None) -> str:
    """Like "XID 48: double-bit ECC error"."""
    name = _NAMES.get(xid)
    where = "" if gpu_instance is None else f" (GPU instance {gpu_instance})"
    return f"XID {xid}{where}" + (f": {name}" if name else "")
