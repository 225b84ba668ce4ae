from typing import Annotated

import strawberry

from remotegpu_core.actor import anonymous
from remotegpu_core.services import sign_in
from remotegpu_graphql.bounds import characters
from remotegpu_graphql.context import Info
from remotegpu_graphql.errors import UserError
from remotegpu_graphql.fields import mutation
from remotegpu_graphql.payloads import user_errors
from remotegpu_graphql.permissions import Access
from remotegpu_graphql.scalars import DateTime
from remotegpu_graphql.users.types import User
from remotegpu_graphql.viewer.types import Viewer


@strawberry.input(description="A user name and its password.")
class SignInInput:
    username: str = strawberry.field(description="In any case.", metadata=characters(0, 255))
    password: str = strawberry.field(description="As it was set.", metadata=characters(0, 1024))
    device_token: str | None = strawberry.field(
        default=None,
        description="What an earlier signIn of this user returned as its deviceToken: with it, "
        "failed attempts of others do not lock this one out. One that is not good is ignored.",
        metadata=characters(0, 255),
    )


@strawberry.type(description="Of signIn.")
class SignInPayload:
    token: str | None = strawberry.field(
        default=None,
        description="The session's secret, shown this once: send it as `Authorization: Bearer`, "
        'or in connection_init\'s payload as {"token": "..."}.',
    )
    device_token: str | None = strawberry.field(
        default=None,
        description="Keep it for the next signIn on this device. It opens nothing by itself, and "
        "ends when the password is changed.",
    )
    expires_at: DateTime | None = strawberry.field(
        default=None, description="When the session ends by itself."
    )
    viewer: Viewer | None = strawberry.field(default=None, description="Who signed in.")
    user_errors: list[UserError] = user_errors()


@strawberry.type(description="Of signOut.")
class SignOutPayload:
    user: User | None = strawberry.field(default=None, description="Who signed out.")
    user_errors: list[UserError] = user_errors()


@strawberry.type
class ViewerMutation:
    @mutation(
        "Exchange a user name and password for a session. Five failures for one name from one "
        "network (an IPv4 address, 64 bits of IPv6) lock the pair for a quarter of an hour, a "
        "hundred from all networks the name, but not for devices and networks on which it signed "
        "in before. A document checks one password.",
        access=Access.PUBLIC,
    )
    async def sign_in(
        self,
        info: Info,
        input: Annotated[SignInInput, strawberry.argument(description="Who.")],
    ) -> SignInPayload | None:
        context = info.context
        context.check_password_once()
        signed_in = await sign_in.sign_in(
            context.plane.settings,
            input.username,
            input.password,
            source_address=context.actor.source_address,
            device_token=input.device_token,
        )
        context.actor = signed_in.actor
        return SignInPayload(
            token=signed_in.token,
            device_token=signed_in.device_token,
            expires_at=DateTime(signed_in.session.expires_at),
            viewer=Viewer(user=User.of(signed_in.user)),
        )

    @mutation("End the session that this call came with. Its live streams end too.")
    async def sign_out(self, info: Info) -> SignOutPayload | None:
        context = info.context
        user = await context.loaders.user.load(context.actor.require_user())
        await sign_in.sign_out(context.actor)
        # What follows in this document is nobody's either.
        context.actor = anonymous(context.actor.source_address)
        await context.nudge()
        return SignOutPayload(user=None if user is None else User.of(user))
