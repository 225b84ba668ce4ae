"""CORS at /graphql, for pages of the origins that the operator allowed."""

from collections.abc import Sequence
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

#: Seconds for which a browser need not ask again; none remembers longer than two hours.
_MAX_AGE: Final = 7200


class CrossOrigin:
    """Answers preflights, and lets listed pages read answers, errors of every kind included.

    No Access-Control-Allow-Credentials: a browser that would send the cookie with a request of
    another origin refuses the answer. Headers are all allowed, since those that are not read here
    do nothing.
    """

    def __init__(self, app: ASGIApp, *, path: str, origins: Sequence[str]) -> None:
        self._app = app
        self._path = path
        self._origins = frozenset(origins)
        self._cors = CORSMiddleware(
            app,
            allow_origins=self._origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            allow_private_network=True,
            expose_headers=("Retry-After",),
            max_age=_MAX_AGE,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_listed = (
            scope["type"] == "http"
            and scope["path"] == self._path
            and Headers(scope=scope).get("origin") in self._origins
        )
        await (self._cors if is_listed else self._app)(scope, receive, send)
