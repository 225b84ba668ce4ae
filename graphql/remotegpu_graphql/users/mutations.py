from typing import Annotated

import strawberry

from remotegpu_core.actor import Role
from remotegpu_core.errors import InvalidInput
from remotegpu_core.services import users
from remotegpu_graphql.context import Info
from remotegpu_graphql.errors import UserError
from remotegpu_graphql.fields import mutation
from remotegpu_graphql.payloads import user_errors
from remotegpu_graphql.permissions import Access
from remotegpu_graphql.users.types import User


@strawberry.input(description="A new user.")
class CreateUserInput:
    username: str = strawberry.field(
        description="1 to 64 letters, digits, '.', '_', '-' or '@'; unique in any case."
    )
    password: str = strawberry.field(description="8 to 256 characters, four different at least.")
    role: Role = strawberry.field(default=Role.USER, description="What they may do.")


@strawberry.type(description="Of createUser.")
class CreateUserPayload:
    user: User | None = strawberry.field(default=None, description="The new user.")
    user_errors: list[UserError] = user_errors()


@strawberry.input(description="Another password for yourself.")
class ChangePasswordInput:
    current_password: str = strawberry.field(description="The one of today.")
    new_password: str = strawberry.field(description="8 to 256 characters.")


@strawberry.type(description="Of changePassword.")
class ChangePasswordPayload:
    user: User | None = strawberry.field(default=None, description="You.")
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
        return CreateUserPayload(user=User.of(user))

    @mutation("Give yourself another password. Your other sessions end.")
    async def change_password(
        self,
        info: Info,
        input: Annotated[ChangePasswordInput, strawberry.argument(description="Old and new.")],
    ) -> ChangePasswordPayload | None:
        try:
            user = await users.change_password(
                info.context.actor, input.current_password, input.new_password
            )
        except InvalidInput as error:
            # The rules speak of the password; here there are two.
            if error.field == ["password"]:
                error.field = ["newPassword"]
            raise
        await info.context.nudge()
        return ChangePasswordPayload(user=User.of(user))
