import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotegpu_protocol.close_codes import MAX_REASON_BYTES, PERMANENT, CloseCode, fit_reason
from remotegpu_protocol.errors import (
    AuthenticationFailed,
    EnrollmentConflict,
    EnrollmentRefused,
    KeyInUse,
    Overloaded,
    ProtocolError,
    Revoked,
    Superseded,
    VersionMismatch,
    close_code_of,
)


def subclasses(root: type[ProtocolError]) -> list[type[ProtocolError]]:
    return [root, *(found for child in root.__subclasses__() for found in subclasses(child))]


def ours() -> list[type[ProtocolError]]:
    """The tree of errors.py, without what other packages hang into it."""
    return [
        kind for kind in subclasses(ProtocolError) if kind.__module__ == ProtocolError.__module__
    ]


def test_a_close_frame_may_carry_every_code() -> None:
    for code in CloseCode:
        assert code in {1000, 1001, 1009, 1011} or 4000 <= code <= 4999


def test_every_error_closes_with_a_known_code() -> None:
    for kind in ours():
        assert kind.close_code in set(CloseCode)
        assert close_code_of(kind.code) == kind.close_code
    assert len({kind.code for kind in ours()}) == len(ours())


def test_errors_that_other_ends_invent_close_with_going_away() -> None:
    assert close_code_of("SOMETHING_NEW") == CloseCode.GOING_AWAY


def test_where_trying_again_soon_is_pointless() -> None:
    assert {kind for kind in ours() if kind.close_code in PERMANENT} == {
        AuthenticationFailed,
        EnrollmentConflict,
        EnrollmentRefused,
        KeyInUse,
        Revoked,
        VersionMismatch,
    }
    assert Superseded.close_code == CloseCode.SUPERSEDED
    assert Overloaded.close_code == CloseCode.OVERLOADED


@pytest.mark.parametrize("reason", ["", "Enrolled.", "x" * 123, "é" * 61])
def test_short_reasons_stay(reason: str) -> None:
    assert fit_reason(reason) == reason


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(), max_size=400))
def test_every_reason_fits_into_a_close_frame(reason: str) -> None:
    assert len(fit_reason(reason).encode()) <= MAX_REASON_BYTES


def test_a_reason_that_is_cut_says_so() -> None:
    assert fit_reason("x" * 124) == "x" * 120 + "…"
    assert fit_reason("\U0001f600" * 40).endswith("\U0001f600…")
