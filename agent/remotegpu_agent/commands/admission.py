"""Whether a command that came may be done at all."""

from collections.abc import Mapping
from typing import Any, Final

from remotegpu_agent.commands.handler import Handler
from remotegpu_agent.commands.policy import LocalPolicy
from remotegpu_agent.commands.records import Outcome
from remotegpu_protocol.commands import Command, EventState
from remotegpu_protocol.errors import InvalidMessage, UnknownCommand
from remotegpu_protocol.grammar import clean_text, shorten
from remotegpu_protocol.kinds import read_arguments

Handlers = Mapping[str, Handler[Any]]

_MAX_MESSAGE: Final = 2000


def refusal(command: Command, handlers: Handlers, policy: LocalPolicy) -> Outcome | None:
    """Why the command is refused, whoever sent it; None when it may be done."""
    if command.kind not in handlers:
        return _refused(
            UnknownCommand.code,
            f"This agent knows no command {shorten(command.kind)!r}; it knows "
            f"{', '.join(sorted(handlers))}. Upgrade the agent if a newer one does.",
        )
    if command.kind not in policy.commands:
        return _refused("NOT_ALLOWED", _not_allowed(command.kind, policy))
    try:
        arguments = read_arguments(command.kind, command.arguments)
    except (InvalidMessage, UnknownCommand) as error:
        return _refused("INVALID_ARGUMENTS", error.message)
    about = getattr(arguments, "allocation_id", None)
    if about != command.allocation_id:
        return _refused(
            "INVALID_ARGUMENTS",
            f"{command.kind}: the command is for allocation {command.allocation_id}, its arguments "
            f"are about {about}.",
        )
    return None


def expiry(command: Command, control_clock: int) -> Outcome | None:
    """EXPIRED when the deadline has passed by the control plane's clock (milliseconds)."""
    if control_clock <= command.deadline:
        return None
    late = (control_clock - command.deadline) / 1000
    return Outcome(
        EventState.EXPIRED,
        error_code="DEADLINE_PASSED",
        error_message=f"The deadline passed {late:.1f} s before {clean_text(command.kind)} began.",
    )


def _not_allowed(kind: str, policy: LocalPolicy) -> str:
    if policy.message is not None:
        return f"This host allows no commands: {policy.message}"
    if not policy.commands:
        return (
            f"This host is monitored only. To allow {kind}, its owner names it under commands in "
            f"{policy.source}."
        )
    return (
        f"The policy of this host, {policy.source}, does not allow {kind}; it allows "
        f"{', '.join(sorted(policy.commands))}."
    )


def _refused(code: str, message: str) -> Outcome:
    return Outcome(
        EventState.REFUSED, error_code=code, error_message=clean_text(message, _MAX_MESSAGE)
    )
