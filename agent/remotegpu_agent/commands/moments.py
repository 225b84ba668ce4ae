"""The moments at which an agent may die, named so that tests can kill it at each of them."""

from collections.abc import Callable
from enum import StrEnum


class Moment(StrEnum):
    """Before and after every commit of the journal, and around every sending.

    What lies between: a command has come, an effect is under way, an acknowledgement has come.
    """

    ACCEPTING = "accepting"
    ACCEPTED = "accepted"
    BEGINNING = "beginning"
    BEGUN = "begun"
    PROGRESSING = "progressing"
    PROGRESSED = "progressed"
    FINISHING = "finishing"
    FINISHED = "finished"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    ACKNOWLEDGING = "acknowledging"
    ACKNOWLEDGED = "acknowledged"
    SENDING = "sending"
    SENT = "sent"


#: Told each moment as it comes.
Witness = Callable[[Moment], None]


def nobody(_moment: Moment) -> None:
    """The witness of an agent that is not under test."""
