"""What is refused whoever sends it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotegpu_agent.commands.admission import expiry, refusal
from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.policy import LocalPolicy, PolicyFile
from remotegpu_agent.commands.registry import make_handlers
from remotegpu_agent.sources.absent import AbsentSource
from remotegpu_agent.state_directory import StateDirectory, default_state_directory
from remotegpu_protocol.commands import Command, EventState
from remotegpu_protocol.kinds import KINDS, AllocationStart

ALL = LocalPolicy(commands=frozenset(KINDS))
HANDLERS = make_handlers(
    StateDirectory(default_state_directory()), DiskThread(), PolicyFile(), AbsentSource()
)
ARGUMENTS = msgspec.msgpack.encode(AllocationStart("a1", "ada", False, ["GPU-1"], 1))
START = Command("c1", 1, "allocation.start", ARGUMENTS, 1000, "a1", 1)


def code(policy: LocalPolicy = ALL, **changes: object) -> str | None:
    outcome = refusal(msgspec.structs.replace(START, **changes), HANDLERS, policy)
    if outcome is None:
        return None
    assert outcome.state is EventState.REFUSED
    assert outcome.error_message
    assert outcome.error_message.isprintable()
    assert len(outcome.error_message) <= 2000
    return outcome.error_code


def test_what_the_policy_allows_may_be_done() -> None:
    assert set(HANDLERS) == set(KINDS)
    assert code() is None


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (LocalPolicy(), "monitored only"),
        (LocalPolicy(message="/etc/x is not obeyed: mode 666."), "mode 666"),
        (LocalPolicy(commands=frozenset({"allocation.end"})), "it allows allocation.end"),
    ],
)
def test_what_it_does_not_allow_may_not(policy: LocalPolicy, says: str) -> None:
    assert code(policy) == "NOT_ALLOWED"
    outcome = refusal(START, HANDLERS, policy)
    assert outcome is not None
    assert says in (outcome.error_message or "")
    # Arguments that would be refused too are not even looked at.
    assert code(policy, arguments=b"\xc1") == "NOT_ALLOWED"


@pytest.mark.parametrize(
    "kind", ["shell.run", "allocation.start; rm -rf /", "allocation.start ", "__init__", "../../x"]
)
def test_a_kind_that_is_none(kind: str) -> None:
    assert code(kind=kind) == "UNKNOWN_COMMAND"
    # Not even where a policy could name it.
    assert code(LocalPolicy(commands=frozenset({kind})), kind=kind) == "UNKNOWN_COMMAND"


@pytest.mark.parametrize(
    "changes",
    [
        {"arguments": b"\xc1"},
        {"arguments": b"\x80"},
        {"arguments": ARGUMENTS + b"\0"},
        {"arguments": msgspec.msgpack.encode(["a1", "ada", False, [], 1])},
        {"arguments": msgspec.msgpack.encode(AllocationStart("a1", "ada\n", False, [], 1))},
        {"arguments": msgspec.msgpack.encode(AllocationStart("a1", "ada", False, ["G"] * 65, 1))},
        {"allocation_id": "a2"},
        {"allocation_id": None},
    ],
)
def test_arguments_that_do_not_fit(changes: dict[str, object]) -> None:
    assert code(ALL, **changes) == "INVALID_ARGUMENTS"


@given(kind=st.text(max_size=64) | st.sampled_from(sorted(KINDS)), arguments=st.binary())
def test_whatever_is_sent_nothing_is_raised(kind: str, arguments: bytes) -> None:
    assert code(kind=kind, arguments=arguments) in {"UNKNOWN_COMMAND", "INVALID_ARGUMENTS"}
    assert code(LocalPolicy(), kind=kind, arguments=arguments) in {"UNKNOWN_COMMAND", "NOT_ALLOWED"}


def test_a_deadline_has_passed_when_it_lies_behind() -> None:
    assert expiry(START, 1000) is None
    late = expiry(START, 3500)
    assert late is not None
    assert late.state is EventState.EXPIRED
    assert "2.5 s" in (late.error_message or "")
