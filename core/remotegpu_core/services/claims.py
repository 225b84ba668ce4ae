"""Whose claim weighs more, when two machines' hosts say that they have the same thing.

A host can say anything of itself, so neither who says it first nor who says it last is right for that.
What is known otherwise decides; where nothing is known, the claims of both are held until an admin
decides.
"""

from enum import IntEnum
from typing import Final

#: Milliseconds after which a claim that nothing contested counts as established. Without that, one
#: hostile host could take every other out of use by claiming what they have.
ESTABLISHED_AFTER: Final = 24 * 60 * 60 * 1000


class Standing(IntEnum):
    """What speaks for a claim beside the host's own word, weakest first."""

    CLAIMED = 0
    #: Held for `ESTABLISHED_AFTER` before another machine claimed it, or proven by a link that is no more.
    ESTABLISHED = 1
    #: The machine's link comes from the address.
    LINKED = 2
    #: An admin said so.
    DECIDED = 3


def is_established(since: int, contested_since: int) -> bool:
    """Whether a claim was old enough when another one came."""
    return contested_since - since >= ESTABLISHED_AFTER
