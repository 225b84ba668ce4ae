from typing import Annotated

import strawberry

from remotegpu_core.actor import Role
from remotegpu_core.errors import InvalidInput
from remotegpu_core.passwords import MAX_LENGTH, MIN_LENGTH
from remotegpu_core.services import users
from remotegpu_graphql.bounds import characters
from remotegpu_graphql.context import Info
from remotegpu_graphql.errors import UserError
from remotegpu_graphql.fields import mutation
from remotegpu_graphql.ids import decode_id
from remotegpu_graphql.payloads import user_errors
from remotegpu_graphql.permissions import Access
from remotegpu_graphql.relay import Edge, edge, made_edge
from remotegpu_graphql.users.types import User


@strawberry.input(description="A new user.")
class CreateUserInput:
    username: str = strawberry.field(
        description="Letters, digits, '.', '_', '-' or '@'; unique in any case.",
        metadata=characters(1, 64),
    )
    password: str = strawberry.field(
        description="Four different characters at least.",
        metadata=characters(MIN_LENGTH, MAX_LENGTH),
    )
    role: Role = strawberry.field(default=Role.USER, description="What they may do.")


@strawberry.type(description="Of createUser.")
class CreateUserPayload:
    user: User | None = strawberry.field(default=None, description="The new user.")
    user_edge: Edge[User] | None = made_edge("The user", "users")
    user_errors: list[UserError] = user_errors()


@strawberry.input(description="Another password for yourself.")
class ChangePasswordInput:
    current_password: str = strawberry.field(
        description="The one of today.", metadata=characters(0, 1024)
    )
    new_password: str = strawberry.field(
        description="Four different characters at least.",
        metadata=characters(MIN_LENGTH, MAX_LENGTH),
    )
    revoke_api_tokens: bool = strawberry.field(
        default=False, description="Whether your API tokens end too."
    )


@strawberry.type(description="Of changePassword.")
class ChangePasswordPayload:
    user: User | None = strawberry.field(default=None, description="You.")
    user_errors: list[UserError] = user_errors()


@strawberry.input(description="Another role for a user.")
class SetUserRoleInput:
    id: strawberry.ID = strawberry.field(description="The user.")
    role: Role = strawberry.field(description="What they may do from now on.")


@strawberry.type(description="Of setUserRole.")
class SetUserRolePayload:
    user: User | None = strawberry.field(default=None, description="The user.")
    user_errors: list[UserError] = user_errors()


@strawberry.input(description="A user to shut out.")
class DisableUserInput:
    id: strawberry.ID = strawberry.field(description="The user.")


@strawberry.type(description="Of disableUser.")
class DisableUserPayload:
    user: User | None = strawberry.field(default=None, description="The user.")
    user_errors: list[UserError] = user_errors()


@strawberry.input(description="A user to let in again.")
class EnableUserInput:
    id: strawberry.ID = strawberry.field(description="The user.")


@strawberry.type(description="Of enableUser.")
class EnableUserPayload:
    user: User | None = strawberry.field(default=None, description="The user.")
    user_errors: list[UserError] = user_errors()


@strawberry.type
class UsersMutation:
    @mutation("Add a user.", access=Access.ADMIN)
    async def create_user(
        self,
        info: Info,
        input: Annotated[CreateUserInput, strawberry.argument(description="Who.")],
    ) -> CreateUserPayload | None:
        user = await users.create_user(
            info.context.actor, input.username, input.password, input.role
        )
        return CreateUserPayload(user=User.of(user), user_edge=edge(user, users.BY_NAME, User.of))

    @mutation("Make a user an admin, or no longer one. One admin stays.", access=Access.ADMIN)
    async def set_user_role(
        self,
        info: Info,
        input: Annotated[SetUserRoleInput, strawberry.argument(description="Who, and what.")],
    ) -> SetUserRolePayload | None:
        user = await users.set_role(
            info.context.actor, decode_id(input.id, "User", field="id"), input.role
        )
        await info.context.nudge()
        return SetUserRolePayload(user=User.of(user))

    @mutation(
        "Shut a user out: their sessions and API tokens end for good, their live streams within "
        "two seconds. What is allocated to them stays until it ends or is released.",
        access=Access.ADMIN,
    )
    async def disable_user(
        self,
        info: Info,
        input: Annotated[DisableUserInput, strawberry.argument(description="Who.")],
    ) -> DisableUserPayload | None:
        user = await users.disable_user(info.context.actor, decode_id(input.id, "User", field="id"))
        await info.context.nudge()
        return DisableUserPayload(user=User.of(user))

    @mutation("Let a disabled user sign in again.", access=Access.ADMIN)
    async def enable_user(
        self,
        info: Info,
        input: Annotated[EnableUserInput, strawberry.argument(description="Who.")],
    ) -> EnableUserPayload | None:
        user = await users.enable_user(info.context.actor, decode_id(input.id, "User", field="id"))
        await info.context.nudge()
        return EnableUserPayload(user=User.of(user))

    @mutation(
        "Give yourself another password. Your other sessions end, and your devices are no longer "
        "known. Five failures lock it for a quarter of an hour. A document checks one password."
    )
    async def change_password(
        self,
        info: Info,
        input: Annotated[ChangePasswordInput, strawberry.argument(description="Old and new.")],
    ) -> ChangePasswordPayload | None:
        info.context.check_password_once()
        try:
            user = await users.change_password(
                info.context.actor,
                input.current_password,
                input.new_password,
                revoke_api_tokens=input.revoke_api_tokens,
            )
        except InvalidInput as error:
            # The rules speak of the password; here there are two.
            if error.field == ["password"]:
                error.field = ["newPassword"]
            raise
        await info.context.nudge()
        return ChangePasswordPayload(user=User.of(user))
