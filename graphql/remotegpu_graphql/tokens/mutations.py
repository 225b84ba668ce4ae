from typing import Annotated

import strawberry

from remotegpu_core.actor import Scope
from remotegpu_core.services import api_tokens
from remotegpu_graphql.bounds import characters, items
from remotegpu_graphql.context import Info
from remotegpu_graphql.errors import UserError
from remotegpu_graphql.fields import mutation
from remotegpu_graphql.ids import decode_id
from remotegpu_graphql.payloads import user_errors
from remotegpu_graphql.relay import Edge, edge, made_edge
from remotegpu_graphql.scalars import DateTime
from remotegpu_graphql.tokens.types import ApiToken


@strawberry.input(description="A new API token for yourself.")
class CreateApiTokenInput:
    name: str = strawberry.field(
        description="What it is for, in printable characters.", metadata=characters(1, 64)
    )
    scopes: list[Scope] = strawberry.field(
        description="What it may be used for; none that you do not have.",
        metadata=items(1, len(Scope)),
    )
    expires_at: DateTime | None = strawberry.field(
        default=None, description="When it ends; never when left out."
    )


@strawberry.type(description="Of createApiToken.")
class CreateApiTokenPayload:
    token: str | None = strawberry.field(
        default=None, description="The secret, in this answer and never again."
    )
    api_token: ApiToken | None = strawberry.field(default=None, description="The new token.")
    api_token_edge: Edge[ApiToken] | None = made_edge("The token", "viewer.apiTokens")
    user_errors: list[UserError] = user_errors()


@strawberry.input(description="An API token to revoke.")
class RevokeApiTokenInput:
    id: strawberry.ID = strawberry.field(description="Its id.")


@strawberry.type(description="Of revokeApiToken.")
class RevokeApiTokenPayload:
    api_token: ApiToken | None = strawberry.field(default=None, description="The token.")
    user_errors: list[UserError] = user_errors()


@strawberry.type
class TokensMutation:
    @mutation("Make an API token for yourself, with a session: API tokens make no further ones.")
    async def create_api_token(
        self,
        info: Info,
        input: Annotated[CreateApiTokenInput, strawberry.argument(description="What for.")],
    ) -> CreateApiTokenPayload | None:
        token, row = await api_tokens.create_api_token(
            info.context.actor, input.name, frozenset(input.scopes), input.expires_at
        )
        return CreateApiTokenPayload(
            token=token,
            api_token=ApiToken.of(row),
            api_token_edge=edge(row, api_tokens.NEWEST_FIRST, ApiToken.of),
        )

    @mutation(
        "Revoke a token of yours, or as an admin anybody's. Its live streams end within two "
        "seconds. Revoking twice changes nothing."
    )
    async def revoke_api_token(
        self,
        info: Info,
        input: Annotated[RevokeApiTokenInput, strawberry.argument(description="Which.")],
    ) -> RevokeApiTokenPayload | None:
        row = await api_tokens.revoke_api_token(
            info.context.actor, decode_id(input.id, "ApiToken", field="id")
        )
        await info.context.nudge()
        return RevokeApiTokenPayload(api_token=ApiToken.of(row))
