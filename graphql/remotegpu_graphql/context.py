"""What resolvers know: who asks, and the parts of the control plane."""

from collections.abc import Mapping
from functools import cached_property

from strawberry.types.info import Info as StrawberryInfo

from remotegpu_core.actor import Actor
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.errors import InvalidInput, LimitExceeded
from remotegpu_graphql.loaders import Loaders


class Context:
    """Of one operation, or of one subscription as long as it lives.

    Without an actor it is that of a shared execution, whose result goes to several viewers.
    """

    def __init__(self, plane: ControlPlane, actor: Actor | None) -> None:
        self.plane = plane
        self._actor = actor
        #: What mutations were given beyond their inputs' bounds, by their response keys.
        self.beyond: Mapping[str, InvalidInput] = {}
        #: What arguments were given without an effect, for the response's `extensions.ignored`.
        self.ignored: list[str] = []
        self._checked_password = False

    def note_not_mine(self, field: str, mine: bool | None) -> None:
        """Tell a caller who gives `mine: false` to a list that it asks for nothing."""
        if mine is False:
            note = f"{field}(filter: {{mine: false}}): false is as if left out."
            if note not in self.ignored:
                self.ignored.append(note)

    @cached_property
    def loaders(self) -> Loaders:
        """Made when first asked for: viewers who share an execution wait by the thousand, and
        never load anything themselves."""
        return Loaders(self)

    @property
    def is_shared(self) -> bool:
        return self._actor is None

    @property
    def actor(self) -> Actor:
        if self._actor is None:
            raise RuntimeError(
                "A field of a shared subscription asked who the viewer is. What is marked "
                "shareable gives every viewer the same; remove the mark from its type."
            )
        return self._actor

    @actor.setter
    def actor(self, actor: Actor) -> None:
        """The caller with the rights of now."""
        self._actor = actor

    def check_password_once(self) -> None:
        """To be called before a password is checked.

        Raises:
            LimitExceeded: this document had one checked already. One that repeats a mutation under
                many aliases would otherwise be many guesses for one request.
        """
        if self._checked_password:
            raise LimitExceeded(
                "A document checks one password: send each signIn and changePassword by itself."
            )
        self._checked_password = True

    async def nudge(self) -> None:
        """Tell every process, after the commit, that something changed."""
        await self.plane.bus.nudge("changed")


class Info(StrawberryInfo[Context, None]):
    """Strawberry's info with our context."""
