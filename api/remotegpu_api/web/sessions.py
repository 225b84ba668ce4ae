"""Signing in and out with a browser: the session's token goes into a cookie, out of reach."""

from urllib.parse import parse_qs

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from remotegpu_api.callers import actor_of, source_address
from remotegpu_api.cookies import (
    DEVICE,
    DEVICE_LIFETIME,
    SESSION,
    delete_cookie,
    read_cookie,
    set_cookie,
)
from remotegpu_api.origins import comes_from_here
from remotegpu_api.request import BadRequest
from remotegpu_api.state import state_of
from remotegpu_api.web.admission import place_of, read_body, status_of
from remotegpu_api.web.pages import page
from remotegpu_core.actor import Actor, ActorKind, anonymous, signing_in
from remotegpu_core.errors import (
    Forbidden,
    InvalidCredentials,
    InvalidInput,
    LockedOut,
    RemoteGPUError,
    TryLater,
    Unauthenticated,
)
from remotegpu_core.services import sign_in

_MAX_BODY = 4096


class Credentials(msgspec.Struct):
    username: str
    password: str


async def sign_in_page(request: Request) -> Response:
    return page("sign-in.html")


async def create_session(request: Request) -> Response:
    """Take a user name and password, as JSON or as a form, and set the cookie."""
    settings = state_of(request).plane.settings
    source = source_address(request, settings)
    caller = signing_in(anonymous(source))
    try:
        if not comes_from_here(request, settings):
            raise Forbidden("Pages of other origins may not sign in here.")
        credentials = await _credentials(request, caller)
        with place_of(request, caller):
            state_of(request).plane.rates.request(caller)
            signed_in = await sign_in.sign_in(
                settings,
                credentials.username,
                credentials.password,
                source_address=source,
                device_token=read_cookie(request, DEVICE, settings),
            )
    except TryLater as error:
        return _refused(error, status_of(error), {"Retry-After": str(error.retry_after)})
    except (InvalidCredentials, LockedOut) as error:
        await state_of(request).plane.refusals.record(caller, "signIn", error)
        return _refused(error, 429 if isinstance(error, LockedOut) else 400)
    except RemoteGPUError as error:
        return _refused(error, 403 if isinstance(error, Forbidden) else 400)
    response: Response = (
        Response(status_code=204) if _is_json(request) else RedirectResponse("/graphql", 303)
    )
    set_cookie(response, SESSION, signed_in.token, settings, lifetime=settings.session_lifetime)
    set_cookie(response, DEVICE, signed_in.device_token, settings, lifetime=DEVICE_LIFETIME)
    return response


async def end_session(request: Request) -> Response:
    """End the browser's session and take the cookie away."""
    state = state_of(request)
    if not comes_from_here(request, state.plane.settings):
        return Response(status_code=403)
    try:
        actor = await actor_of(request, state.plane.settings)
        if actor.kind is ActorKind.USER:
            await sign_in.sign_out(actor)
            await state.plane.bus.nudge("access")
    except Unauthenticated:
        pass
    response: Response = (
        Response(status_code=204) if _is_json(request) else RedirectResponse("/sign-in", 303)
    )
    # The device stays known.
    delete_cookie(response, SESSION, state.plane.settings)
    return response


def _refused(
    error: RemoteGPUError, status: int, headers: dict[str, str] | None = None
) -> JSONResponse:
    body = {"error": {"code": error.code, "message": error.message}}
    return JSONResponse(body, status, headers)


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").startswith("application/json")


async def _credentials(request: Request, caller: Actor) -> Credentials:
    try:
        body = await read_body(request, _MAX_BODY, caller)
    except BadRequest as bad:
        raise InvalidInput(str(bad)) from None
    try:
        if _is_json(request):
            return msgspec.json.decode(body, type=Credentials)
        form = parse_qs(body.decode(), max_num_fields=8)
        return Credentials(form["username"][0], form["password"][0])
    except (msgspec.MsgspecError, KeyError, ValueError):
        raise InvalidInput("A sign-in has the fields username and password.") from None
