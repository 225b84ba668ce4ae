"""The consumers' documents, as they stand in `tests/contract`."""

import re
from pathlib import Path

_FOLDER = Path(__file__).parent.parent / "contract"
_DEFINITION = re.compile(r"^(?:query|mutation|subscription)\s+(\w+)", re.MULTILINE)


def contract(name: str) -> str:
    """A file of the contract, with all of its operations."""
    return (_FOLDER / f"{name}.graphql").read_text()


def operations(text: str) -> list[str]:
    """The names of a document's operations, in their order."""
    return _DEFINITION.findall(text)


def only(text: str, operation: str) -> str:
    """One operation of a document, word for word, as a client that has just this one sends it."""
    starts = [match.start() for match in _DEFINITION.finditer(text)]
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        if re.match(rf"\w+\s+{operation}\b", text[start:]):
            return text[start:end].rstrip()
    raise LookupError(operation)


SIGN_IN = contract("01-sign-in")
VIEWER = contract("02-viewer")
CREATE_USER = contract("03-users-and-tokens")
USERS_AND_TOKENS = CREATE_USER
ENROLL = contract("04-enroll")
MACHINES = contract("05-machines")
LIVE = contract("06-live-metrics")
AUDIT = contract("13-audit")
