"""The graph over HTTP, as the GraphQL-over-HTTP specification has it."""

from typing import Any, Final

from graphql import OperationType
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from remotegpu_api.callers import actor_of, ignored_credentials, source_address
from remotegpu_api.encoding import encode_json
from remotegpu_api.origins import Sender, is_proved_same_origin, sender_of
from remotegpu_api.preparation import prepare
from remotegpu_api.request import (
    BadRequest,
    GraphQLRequest,
    decode_json,
    parse_parameters,
    parse_request,
)
from remotegpu_api.state import state_of
from remotegpu_api.web.admission import place_of, read_body, status_of
from remotegpu_api.web.media_types import GRAPHQL_JSON, HTML, JSON, best_of, check_content_type
from remotegpu_api.web.pages import page
from remotegpu_core.actor import Actor, anonymous
from remotegpu_core.errors import TryLater, Unauthenticated
from remotegpu_graphql.context import Context
from remotegpu_graphql.engine import Operation, refusal
from remotegpu_graphql.errors import RequestRefused, top_level

MAX_BODY: Final = 256 * 1024


async def graphql_endpoint(request: Request) -> Response:
    if request.method == "OPTIONS":
        # Preflights of allowed pages are answered in `cross_origin`.
        return Response(status_code=204, headers={"Allow": "GET, HEAD, OPTIONS, POST"})
    accept = request.headers.get("accept")
    media_type = best_of(
        accept, (JSON, GRAPHQL_JSON, HTML) if _is_get(request) else (JSON, GRAPHQL_JSON)
    )
    if media_type == HTML:
        return await _console(request)
    try:
        if media_type is None:
            raise BadRequest(406, f"Answers are {GRAPHQL_JSON} or {JSON}: accept one of them.")
        return await _answer_of(request, media_type)
    except BadRequest as bad:
        answer = _answer(refusal([bad.error]).as_dict(), media_type or JSON, bad.status)
        answer.headers.update(bad.headers)
        return answer
    except TryLater as error:
        answer = _answer(
            refusal([top_level(error)]).as_dict(), media_type or JSON, status_of(error)
        )
        answer.headers["Retry-After"] = str(error.retry_after)
        return answer


def _is_get(request: Request) -> bool:
    """HEAD is answered as GET is, and the server leaves the body out."""
    return request.method in {"GET", "HEAD"}


async def _console(request: Request) -> Response:
    """The page for browsers; what else the address says is not run."""
    try:
        actor = await actor_of(request, state_of(request).plane.settings)
    except Unauthenticated:
        return RedirectResponse("/sign-in", 303)
    return page("console.html") if actor.is_signed_in else RedirectResponse("/sign-in", 303)


async def _answer_of(request: Request, media_type: str) -> Response:
    sender = sender_of(request, state_of(request).plane.settings)
    if sender is Sender.FOREIGN:
        raise BadRequest(
            403,
            "Pages of other origins may not send requests here, but for those that the operator "
            "names in REMOTEGPU_ALLOWED_ORIGINS.",
            "FORBIDDEN",
        )
    cookie_counts = sender is Sender.OURS and (
        not _is_get(request) or is_proved_same_origin(request)
    )
    actor = await _caller(request, cookie_counts=cookie_counts)
    asked = await _read(request, actor)
    with place_of(request, actor):
        return await _run(request, asked, actor, media_type, cookie_counts=cookie_counts)


async def _caller(request: Request, *, cookie_counts: bool) -> Actor:
    """Who sends the request, known before its body has come."""
    state = state_of(request)
    try:
        return await actor_of(request, state.plane.settings, cookie_counts=cookie_counts)
    except Unauthenticated as error:
        # Trying tokens out is not free.
        state.plane.rates.request(anonymous(source_address(request, state.plane.settings)))
        raise BadRequest(401, error.message, error.code) from None


async def _run(
    request: Request,
    asked: GraphQLRequest,
    actor: Actor,
    media_type: str,
    *,
    cookie_counts: bool,
) -> Response:
    state = state_of(request)
    ignored = (
        []
        if actor.is_signed_in
        else ignored_credentials(request, state.plane.settings, cookie_counts=cookie_counts)
    )
    try:
        prepared = await prepare(asked, actor, state.plane, state.engine)
    except RequestRefused as refused:
        answer = refusal(refused.errors)
        if ignored:
            answer.extensions["ignored"] = ignored
        return _answer(answer.as_dict(), media_type, 400 if media_type == GRAPHQL_JSON else 200)
    operation, context = prepared.operation, Context(state.plane, prepared.caller)
    _check_kind(request, operation)
    response = await state.engine.run(operation, asked.variables, context)
    if ignored:
        response.extensions["ignored"] = ignored
    status = 200 if response.began or media_type == JSON else 400
    return _answer(response.as_dict(), media_type, status)


async def _read(request: Request, actor: Actor) -> GraphQLRequest:
    # gql for Python sends the body of a POST by GET, with nothing in the URL.
    if _is_get(request) and (request.query_params or not _has_body(request)):
        return parse_parameters(request.query_params)
    check_content_type(request.headers.get("content-type", ""))
    return _parse(await read_body(request, MAX_BODY, actor))


def _has_body(request: Request) -> bool:
    headers = request.headers
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _check_kind(request: Request, operation: Operation) -> None:
    if operation.kind is OperationType.SUBSCRIPTION:
        raise BadRequest(
            400,
            "Subscriptions run over websocket, with the subprotocol graphql-transport-ws.",
        )
    if operation.kind is OperationType.MUTATION and _is_get(request):
        raise BadRequest(
            405,
            "Mutations are sent by POST: GET and HEAD change nothing.",
            headers={"Allow": "POST"},
        )


def _parse(body: bytes) -> GraphQLRequest:
    payload = decode_json(body, "The body")
    if isinstance(payload, list):
        raise BadRequest(400, "Batches are not supported: send one request a document.")
    if not isinstance(payload, dict):
        raise BadRequest(400, "The body is a JSON object with the key query.")
    return parse_request(payload)


def _answer(body: dict[str, Any], media_type: str, status: int) -> Response:
    return Response(
        encode_json(body),
        status,
        media_type=f"{media_type}; charset=utf-8",
        # An answer is not kept, and never taken for anything but JSON.
        headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
    )
