"""The token in connection_init's payload, in each of the places where clients put it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from remotegpu_api.callers import read_authorization
from remotegpu_api.live.messages import CloseCode, ProtocolViolation
from remotegpu_protocol.grammar import shorten

_TOKENS: Final = frozenset({"token", "authtoken"})
_AUTHORIZATION: Final = "authorization"
_HEADERS: Final = "headers"
#: Names of what was ignored that are told.
_MOST_TOLD: Final = 10


@dataclass(slots=True)
class InitPayload:
    """`ignored` says what was not understood, by its name and never by its value."""

    token: str | None = None
    ignored: list[str] = field(default_factory=list)


def read_init(payload: Mapping[str, Any], header: str | None) -> InitPayload:
    """Find the token: `header` is the one of the handshake's own Authorization.

    Raises:
        ProtocolViolation: a token is no string, or two differ.
    """
    tokens = {} if header is None else {"the header Authorization": header}
    ignored: list[str] = []
    for path, value in _entries(payload):
        name = path.rpartition(".")[2].lower()
        if value is None:
            continue
        if name in _TOKENS and "." not in path:
            # Taken as it is where it has no scheme: one that is wrong is refused, not passed over.
            text = _string(path, value)
            tokens[path] = read_authorization(text) or text
        elif name == _AUTHORIZATION:
            token = read_authorization(_string(path, value))
            if token is None:
                ignored.append(f"{path}: expected 'Bearer TOKEN'.")
            else:
                tokens[path] = token
        else:
            ignored.append(shorten(path))
    if len(set(tokens.values())) > 1:
        raise ProtocolViolation(
            CloseCode.BAD_REQUEST, f"Different tokens came in {' and '.join(tokens)}: send one."
        )
    return InitPayload(next(iter(tokens.values()), None), ignored[:_MOST_TOLD])


def _entries(payload: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What the payload holds, and what its `headers` hold, by their paths."""
    found: list[tuple[str, Any]] = []
    for name, value in payload.items():
        if name.lower() == _HEADERS and isinstance(value, dict):
            found += [(f"{name}.{header}", inner) for header, inner in value.items()]
        else:
            found.append((name, value))
    return found


def _string(path: str, value: object) -> str:
    if isinstance(value, str):
        return value
    raise ProtocolViolation(CloseCode.BAD_REQUEST, f"connection_init's {path} is a string.")
