"""Errors as the graph tells them: user errors in payloads, the rest at the top level."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import strawberry
import structlog
from graphql import GraphQLError

from remotegpu_core.errors import RemoteGPUError, TryLater
from remotegpu_graphql.enums import graph_enum

log = structlog.get_logger()


class ErrorCode(StrEnum):
    NOT_FOUND = "NOT_FOUND"
    INVALID_INPUT = "INVALID_INPUT"
    CONFLICT = "CONFLICT"
    INVALID_CREDENTIALS = "INVALID_CREDENTIALS"
    LOCKED_OUT = "LOCKED_OUT"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    FORBIDDEN = "FORBIDDEN"
    NO_CAPACITY = "NO_CAPACITY"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    IDEMPOTENCY_KEY_REUSED = "IDEMPOTENCY_KEY_REUSED"
    SSH_KEY_REFUSED = "SSH_KEY_REFUSED"
    SSH_KEY_MALFORMED = "SSH_KEY_MALFORMED"
    SSH_KEY_SEVERAL = "SSH_KEY_SEVERAL"
    SSH_KEY_PRIVATE = "SSH_KEY_PRIVATE"
    SSH_KEY_CERTIFICATE = "SSH_KEY_CERTIFICATE"
    SSH_KEY_OPTIONS = "SSH_KEY_OPTIONS"
    SSH_KEY_WEAK = "SSH_KEY_WEAK"
    SSH_KEY_UNSUPPORTED = "SSH_KEY_UNSUPPORTED"
    SSH_KEY_MISMATCHED = "SSH_KEY_MISMATCHED"


graph_enum(
    ErrorCode,
    "What went wrong, for programs. New values may come: treat unknown ones as INVALID_INPUT.",
    {
        "NOT_FOUND": "The named object does not exist, or not for you.",
        "INVALID_INPUT": "A value is outside its grammar or range.",
        "CONFLICT": "It clashes with something that exists, such as a name that is taken.",
        "INVALID_CREDENTIALS": "The user name or the password is wrong.",
        "LOCKED_OUT": "Too many failed attempts: wait as long as the message says.",
        "LIMIT_EXCEEDED": "A bound of the service: remove something first.",
        "FORBIDDEN": "You may not give what you do not have, such as a token's scope, nor act on "
        "what is somebody else's.",
        "NO_CAPACITY": "Nothing that fits is free for that time; the message says from when it is.",
        "QUOTA_EXCEEDED": "You, or the workspace, would have more than the quota allows.",
        "IDEMPOTENCY_KEY_REUSED": "The key came with another input before: take a new one.",
        "SSH_KEY_REFUSED": "A key that cannot be taken, for a reason that the others do not name.",
        "SSH_KEY_MALFORMED": "Not a public key, or one that was damaged on the way.",
        "SSH_KEY_SEVERAL": "More than one line: one key at a time.",
        "SSH_KEY_PRIVATE": "A private key, which nobody else should ever have seen.",
        "SSH_KEY_CERTIFICATE": "A certificate in place of the public key itself.",
        "SSH_KEY_OPTIONS": "Options of authorized_keys in front of the key.",
        "SSH_KEY_WEAK": "A key that can be broken: DSS, or RSA of less than 2048 bits.",
        "SSH_KEY_UNSUPPORTED": "A type of key that is not taken.",
        "SSH_KEY_MISMATCHED": "The type in front is not the type of the key behind it.",
    },
)


@strawberry.type(description="Something about the input that the caller can mend.")
class UserError:
    field: list[str] | None = strawberry.field(
        default=None, description="Path of the input field, or null when it is about the whole."
    )
    message: str = strawberry.field(
        description="What was expected, what came, and what to do next; written for people."
    )
    code: ErrorCode = strawberry.field(description="The same for programs.")


def is_user_error(error: RemoteGPUError) -> bool:
    """Whether the caller can act on it by changing the input."""
    # A missing role is nothing that another input would mend; a scope asked for too much is.
    if error.code == ErrorCode.FORBIDDEN:
        return error.field is not None
    return error.code in ErrorCode.__members__


def user_error(error: RemoteGPUError) -> UserError:
    return UserError(field=error.field, message=error.message, code=ErrorCode(error.code))


def top_level(error: RemoteGPUError) -> GraphQLError:
    """The error as it stands in a response's `errors`, with a stable `extensions.code`."""
    extensions: dict[str, object] = {"code": error.code}
    if error.field:
        extensions["field"] = error.field
    if isinstance(error, TryLater):
        extensions["retryAfter"] = error.retry_after
    return GraphQLError(error.message, extensions=extensions)


class RequestRefused(Exception):
    """The document cannot run; `errors` say why, each with `extensions.code`."""

    def __init__(self, errors: Sequence[GraphQLError]) -> None:
        super().__init__(errors[0].message)
        self.errors = list(errors)


def coded(
    error: GraphQLError,
    code: str,
    extensions: Mapping[str, Any] | None = None,
    *,
    message: str | None = None,
) -> GraphQLError:
    """The error with a code for programs."""
    return GraphQLError(
        message or error.message,
        nodes=error.nodes,
        source=error.source,
        positions=error.positions,
        path=error.path,
        extensions={**(extensions or {}), "code": code},
    )
