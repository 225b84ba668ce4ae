"""What every mutation's payload has."""

from typing import Any

import strawberry


def user_errors() -> Any:
    return strawberry.field(
        default_factory=list,
        description="What the caller can mend; empty when it worked. The other fields are null "
        "when it did not.",
    )
