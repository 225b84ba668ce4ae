"""The graph over HTTP, as the GraphQL-over-HTTP specification has it."""

from typing import Any, Final

import msgspec
from graphql import GraphQLError, OperationType
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from remotegpu_api.callers import actor_of, comes_from_here, source_address
from remotegpu_api.encoding import encode_json
from remotegpu_api.request import BadRequest, GraphQLRequest, parse_request
from remotegpu_api.state import state_of
from remotegpu_api.web.admission import place_of, read_body, status_of
from remotegpu_api.web.pages import page
from remotegpu_core.actor import anonymous
from remotegpu_core.errors import TryLater, Unauthenticated
from remotegpu_graphql.context import Context
from remotegpu_graphql.engine import RequestRefused, refusal
from remotegpu_graphql.errors import top_level

MAX_BODY: Final = 256 * 1024

_GRAPHQL_JSON: Final = "application/graphql-response+json"
_JSON: Final = "application/json"


async def graphql_endpoint(request: Request) -> Response:
    if request.method == "GET":
        return await _get(request)
    media_type = _negotiate(request.headers.get("accept"))
    try:
        return await _post(request, media_type)
    except BadRequest as bad:
        return _answer(refusal([bad.error]).as_dict(), media_type, bad.status)
    except TryLater as error:
        response = _answer(refusal([top_level(error)]).as_dict(), media_type, status_of(error))
        response.headers["Retry-After"] = str(error.retry_after)
        return response


async def _get(request: Request) -> Response:
    """The console for browsers. Documents are not run by GET: none are persisted yet."""
    if "text/html" not in request.headers.get("accept", ""):
        error = GraphQLError(
            "Documents are sent by POST as application/json.", extensions={"code": "BAD_REQUEST"}
        )
        response = _answer(refusal([error]).as_dict(), _JSON, 405)
        response.headers["Allow"] = "POST"
        return response
    try:
        actor = await actor_of(request, state_of(request).plane.settings)
    except Unauthenticated:
        return RedirectResponse("/sign-in", 303)
    return page("console.html") if actor.is_signed_in else RedirectResponse("/sign-in", 303)


async def _post(request: Request, media_type: str) -> Response:
    if not comes_from_here(request, state_of(request).plane.settings):
        raise BadRequest(403, "Pages of other origins may not send requests here.", "FORBIDDEN")
    with place_of(request):
        return await _run(request, media_type)


async def _run(request: Request, media_type: str) -> Response:
    state = state_of(request)
    body = await read_body(request, MAX_BODY)
    asked = _parse(body, request.headers.get("content-type", ""))
    try:
        actor = await actor_of(request, state.plane.settings)
    except Unauthenticated as error:
        # Trying tokens out is not free.
        state.plane.rates.request(anonymous(source_address(request, state.plane.settings)))
        raise BadRequest(401, error.message, error.code) from None
    state.plane.rates.request(actor)
    try:
        operation = state.engine.prepare(
            asked.query, asked.operation_name, signed_in=actor.is_signed_in
        )
    except RequestRefused as refused:
        answer = refusal(refused.errors).as_dict()
        return _answer(answer, media_type, 400 if media_type == _GRAPHQL_JSON else 200)
    if operation.kind is OperationType.SUBSCRIPTION:
        raise BadRequest(
            400,
            "Subscriptions run over websocket, with the subprotocol graphql-transport-ws.",
        )
    response = await state.engine.run(operation, asked.variables, Context(state.plane, actor))
    status = 200 if response.began or media_type == _JSON else 400
    return _answer(response.as_dict(), media_type, status)


def _parse(body: bytes, content_type: str) -> GraphQLRequest:
    if content_type.partition(";")[0].strip().lower() != _JSON:
        raise BadRequest(415, f"Expected Content-Type: application/json, got {content_type!r}.")
    try:
        payload = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadRequest(400, "The body is not valid JSON in UTF-8.") from None
    if isinstance(payload, list):
        raise BadRequest(400, "Batches are not supported: send one request a document.")
    if not isinstance(payload, dict):
        raise BadRequest(400, "The body is a JSON object with the key query.")
    return parse_request(payload)


def _negotiate(accept: str | None) -> str:
    """What the caller reads best: the newer media type when it names it, JSON otherwise."""
    return _GRAPHQL_JSON if accept is not None and _GRAPHQL_JSON in accept else _JSON


def _answer(body: dict[str, Any], media_type: str, status: int) -> Response:
    return Response(
        encode_json(body),
        status,
        media_type=f"{media_type}; charset=utf-8",
        headers={"Cache-Control": "no-store"},
    )
