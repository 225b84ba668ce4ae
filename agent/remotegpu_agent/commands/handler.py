"""What carries a kind of command out."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import ClassVar, Final, Generic, TypeVar

from msgspec import Struct

from remotegpu_agent.commands.records import Progress
from remotegpu_protocol.kinds import CommandKind

Arguments = TypeVar("Arguments", bound=Struct)

#: Tells how far a command is; seldom enough by itself, so call it as often as you like.
Report = Callable[[Progress], Awaitable[None]]


class CommandFailed(Exception):
    """A command that cannot be done; the message says what was expected, what came, what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Done:
    """The effect is there, and this is its result."""

    result: Struct


@dataclass(frozen=True, slots=True)
class NotDone:
    """Nothing of the effect is there."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody can tell."""


LookedUp = Done | NotDone | Unknown
NOT_DONE: Final = NotDone()
UNKNOWN: Final = Unknown()


class Handler(ABC, Generic[Arguments]):
    """Carries one kind of command out, on this host.

    `run` is called at most once for a command, unless `look_up` found that nothing came of it.
    `stoppable`: a cancel may interrupt `run`, at any await; `look_up` tells what came of it then.
    Nothing that comes from the network is ever given to a shell.
    """

    kind: ClassVar[CommandKind]
    stoppable: ClassVar[bool] = False

    async def objection(self, arguments: Arguments) -> CommandFailed | None:
        """Why it cannot be done at all, asked right before it begins: then it is refused, and
        nothing of it was done. Changes nothing."""
        return None

    @abstractmethod
    async def run(self, arguments: Arguments, report: Report) -> Struct:
        """Do it, and return a result of the kind's shape.

        Raises:
            CommandFailed: it cannot be done.
        """

    async def look_up(self, arguments: Arguments) -> LookedUp:
        """What came of a `run` that did not return; asked after a crash and after a cancel."""
        return UNKNOWN
