"""What every mutation's payload has, and what many inputs have."""

from typing import Any

import strawberry

from remotegpu_core.services.idempotency import MAX_KEY
from remotegpu_graphql.bounds import characters


def user_errors() -> Any:
    return strawberry.field(
        default_factory=list,
        description="What the caller can mend; empty when it worked. The other fields are null "
        "when it did not.",
    )


def idempotency_key() -> Any:
    return strawberry.field(
        default=None,
        description="Of your choosing, such as a UUID. For a day the same key with the same input "
        "gives the same objects, in their current state, and does nothing again; with other input "
        "it is refused.",
        metadata=characters(1, MAX_KEY),
    )
