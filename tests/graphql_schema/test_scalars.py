"""Scalars at their bounds, and NVML's bits as an enum."""

import re
from datetime import UTC, datetime, timedelta, timezone

import pynvml
import pytest
from graphql import GraphQLError
from hypothesis import given
from hypothesis import strategies as st

from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.models import ApiToken
from remotegpu_graphql.ids import NO_OBJECT
from remotegpu_graphql.metrics.types import GpuMetrics, ThrottleReason
from remotegpu_graphql.scalars import SCALARS, ByteCount, Count, DateTime, format_time, parse_time
from remotegpu_protocol.values import MAX_SAFE_INTEGER, MAX_TIMESTAMP
from tests.graphql_schema.asking import ask, codes, data_of
from tests.graphql_schema.hosts import sample_gpu
from tests.graphql_schema.people import as_user

YEAR_10000 = MAX_TIMESTAMP + 1


@given(st.integers(0, MAX_TIMESTAMP))
def test_moments_come_back_to_the_millisecond(value: int) -> None:
    text = format_time(value)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    assert parse_time(text) == value
    assert datetime.fromisoformat(text) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
        milliseconds=value
    )


@given(
    st.datetimes(timezones=st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone))
)
def test_every_moment_of_any_zone_is_read_and_can_be_shown(moment: datetime) -> None:
    try:
        value = parse_time(moment.isoformat())
    except GraphQLError:
        # An offset with seconds and more makes a text that is too long.
        assert len(moment.isoformat()) > 40
        return
    assert 0 <= value <= MAX_TIMESTAMP
    assert format_time(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.001Z", 1),
        ("2026-01-31T12:34:56.789Z", 1_769_862_896_789),
        ("2026-01-31T12:34:56.789+00:00", 1_769_862_896_789),
        ("2026-01-31T14:34:56.789+02:00", 1_769_862_896_789),
        ("2026-01-31T06:04:56.789-06:30", 1_769_862_896_789),
        ("2026-01-31T12:34:56.789999Z", 1_769_862_896_789),
        ("2026-01-31T12:34:56Z", 1_769_862_896_000),
        # Before there was a time, and after there is none.
        ("1969-12-31T23:59:59.999Z", 0),
        ("0001-01-01T00:00:00+14:00", 0),
        ("9999-12-31T23:59:59.999Z", MAX_TIMESTAMP),
        ("9999-12-31T23:59:59.999-12:00", MAX_TIMESTAMP),
    ],
)
def test_moments(text: str, value: int) -> None:
    assert parse_time(text) == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        "now",
        "2026-01-31",
        "2026-01-31T12:34:56",
        "2026-01-31T12:34:56.789",
        "2026-02-30T00:00:00Z",
        "2026-01-31T25:00:00Z",
        "2026-01-31T12:60:00Z",
        "10000-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "-0001-01-01T00:00:00Z",
        "1769862896789",
        1_769_862_896_789,
        1.5,
        True,
        None,
        ["2026-01-31T12:34:56Z"],
        "2026-01-31T12:34:56Z" + " " * 100,
        "9" * 100_000,
        "\u0662\u0660\u0662\u0666-01-31T12:34:56Z",
    ],
)
def test_what_is_no_moment(value: object) -> None:
    with pytest.raises(GraphQLError, match=r"^A DateTime is ISO 8601 with a time zone"):
        parse_time(value)


async def test_token_until_the_end_of_time_can_be_shown(plane: ControlPlane) -> None:
    """One that could be stored and never be shown would break its owner's list for good."""
    actor = await as_user()
    for end in ("9999-12-31T23:59:59.999-12:00", "9999-12-31T23:59:59.999Z"):
        created = await data_of(
            plane,
            actor,
            'mutation M($end: DateTime) { createApiToken(input: {name: "x", scopes: [READ], '
            "expiresAt: $end}) { apiToken { expiresAt } userErrors { code } } }",
            {"end": end},
        )
        assert created["createApiToken"]["apiToken"] == {"expiresAt": "9999-12-31T23:59:59.999Z"}
    assert await ApiToken.filter(expires_at__gt=MAX_TIMESTAMP).count() == 0


async def test_moments_in_documents(plane: ControlPlane) -> None:
    actor = await as_user()
    fine = '{ auditEvents(filter: {since: "2026-01-01T00:00:00+01:00"}) { totalCount } }'
    assert "errors" not in await ask(plane, actor, fine)
    for literal in ('"2026-01-01"', "5", "true", "{}", "ENUM"):
        body = await ask(
            plane, actor, f"{{ auditEvents(filter: {{since: {literal}}}) {{ totalCount }} }}"
        )
        assert set(codes(body)) == {"GRAPHQL_VALIDATION_FAILED"}, literal
        assert "data" not in body


@pytest.mark.parametrize("scalar", [ByteCount, Count])
def test_integers_up_to_what_json_keeps_exact(scalar: object) -> None:
    definition = SCALARS[scalar]
    parse, serialise = definition.parse_value, definition.serialize
    assert parse is not None
    assert serialise is not None
    for value in (0, 1, 2**31, 2**32, MAX_SAFE_INTEGER):
        assert serialise(value) == parse(value) == value
    assert serialise(MAX_SAFE_INTEGER + 1) == serialise(2**64) == MAX_SAFE_INTEGER
    for wrong in (-1, MAX_SAFE_INTEGER + 1, 1.5, "1", True, None, [1]):
        with pytest.raises(GraphQLError, match=r"integer from 0 to 9007199254740991"):
            parse(wrong)


def test_scalars_are_the_ones_of_the_schema() -> None:
    assert {definition.name for definition in SCALARS.values()} == {
        "DateTime",
        "ByteCount",
        "Count",
    }
    assert set(SCALARS) == {DateTime, ByteCount, Count}


# --- throttle reasons


#: The graph's name for each bit that NVML has one for.
BITS = {
    "nvmlClocksThrottleReasonGpuIdle": ThrottleReason.GPU_IDLE,
    "nvmlClocksThrottleReasonApplicationsClocksSetting": (
        ThrottleReason.APPLICATIONS_CLOCKS_SETTING
    ),
    "nvmlClocksThrottleReasonSwPowerCap": ThrottleReason.SW_POWER_CAP,
    "nvmlClocksThrottleReasonHwSlowdown": ThrottleReason.HW_SLOWDOWN,
    "nvmlClocksEventReasonSyncBoost": ThrottleReason.SYNC_BOOST,
    "nvmlClocksEventReasonSwThermalSlowdown": ThrottleReason.SW_THERMAL_SLOWDOWN,
    "nvmlClocksThrottleReasonHwThermalSlowdown": ThrottleReason.HW_THERMAL_SLOWDOWN,
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": ThrottleReason.HW_POWER_BRAKE_SLOWDOWN,
    "nvmlClocksEventReasonDisplayClockSetting": ThrottleReason.DISPLAY_CLOCK_SETTING,
    "nvmlClocksThrottleReasonBoardLimit": ThrottleReason.BOARD_LIMIT,
    "nvmlClocksThrottleReasonReliability": ThrottleReason.RELIABILITY,
}


def _reasons(mask: int | None) -> list[ThrottleReason] | None:
    metrics = GpuMetrics.of(NO_OBJECT, sample_gpu(0, "GPU-0", throttle_reasons=mask))
    reasons: list[ThrottleReason] | None = metrics.throttle_reasons()
    return reasons


def test_throttle_reasons_are_nvmls_bits() -> None:
    constants = {
        name: value
        for name, value in vars(pynvml).items()
        if re.fullmatch(r"nvmlClocks(Throttle|Event)Reason(?!s)[A-Za-z]+", name)
        and isinstance(value, int)
    }
    for name, reason in BITS.items():
        assert _reasons(constants[name]) == [reason], name
    assert set(BITS.values()) == set(ThrottleReason)
    # Every bit that NVML has has a name in the graph.
    known = 0
    for name in BITS:
        known |= constants[name]
    for name, value in constants.items():
        if value.bit_count() == 1:
            assert value & known, f"{name} is new: name it in ThrottleReason"


def test_throttle_masks() -> None:
    assert _reasons(None) is None
    assert _reasons(0) == []
    assert _reasons(0x7FF) == list(ThrottleReason)
    # A bit that is newer than we are is left out; the others stand.
    assert _reasons(1 << 40 | 1 << 2) == [ThrottleReason.SW_POWER_CAP]


def test_ecc_is_null_where_there_is_none() -> None:
    metrics = GpuMetrics.of(
        NO_OBJECT, sample_gpu(0, "GPU-0", ecc_corrected=None, ecc_uncorrected=None)
    )
    assert metrics.ecc_errors is None
    half = GpuMetrics.of(NO_OBJECT, sample_gpu(0, "GPU-0", ecc_corrected=5, ecc_uncorrected=None))
    assert half.ecc_errors is not None
    assert (half.ecc_errors.corrected, half.ecc_errors.uncorrected) == (5, None)
