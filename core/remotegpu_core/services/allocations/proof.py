"""Whether a host's report proves that it is clean: item by item, whatever it says as a whole."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from remotegpu_protocol.kinds import CleanedSurface, CleaningReport
from remotegpu_protocol.surfaces import SURFACES, Surface

#: Surfaces that a text names.
_NAMED: Final = 6


def shortcomings(
    report: CleaningReport, *, simulated_host: bool, was_active: bool
) -> tuple[str, str] | None:
    """Why a report proves nothing, code and message; None where it is a proof.

    `simulated_host`: the host's policy says that its agent only pretends. `was_active`: the host has
    said that the allocation had started, so there was an account to clean.
    """
    if not report.performed and report.items:
        return "NOT_CLEANED", f"Nothing was cleaned. {report.items[0].detail or ''}".strip()
    if not report.performed:
        return (
            "NOT_CLEANED",
            "The agent on this host cleans nothing: clean it by hand, then override the quarantine.",
        )
    found = [*_unproven(report.items), *_missing(report.items, was_active)]
    if report.simulated and not simulated_host:
        found.append("the report is simulated, and the policy of this host is not")
    elif simulated_host and not report.simulated:
        found.append("the policy of this host is simulated, and the report says that it is real")
    if not report.verified and not found:
        found.append("the report as a whole says so, though each of its items is proven")
    return (
        ("NOT_VERIFIED", f"Cleaning could not be verified: {'; '.join(found)}.") if found else None
    )


def _unproven(items: Sequence[CleanedSurface]) -> Iterable[str]:
    for item in items:
        if not item.verified:
            yield f"{item.surface} ({_why(item)})"
        elif item.removed != item.found:
            yield (
                f"{item.surface} (it found {item.found}, removed {item.removed} and says that nothing "
                "is left)"
            )


def _why(item: CleanedSurface) -> str:
    if item.detail:
        return item.detail.rstrip(".")
    return f"found {item.found}, removed {item.removed}"


def _missing(items: Sequence[CleanedSurface], was_active: bool) -> Iterable[str]:
    count = Counter(item.surface for item in items)
    twice = [surface for surface, times in count.items() if times > 1]
    if twice:
        yield f"more than one item for {_names(twice)}"
    if _nobody_signed_in(items) and not was_active:
        return
    missing = [surface for surface in SURFACES if surface not in count]
    if missing:
        yield f"no item for {_names(missing)}"


def _nobody_signed_in(items: Sequence[CleanedSurface]) -> bool:
    """The report of an allocation for which no account was ever made."""
    return (
        len(items) == 1
        and (items[0].surface, items[0].action) == (Surface.ACCOUNT, "none")
        and items[0].found == 0
    )


def _names(surfaces: Sequence[str]) -> str:
    more = f" and {len(surfaces) - _NAMED} more" if len(surfaces) > _NAMED else ""
    return ", ".join(surfaces[:_NAMED]) + more
