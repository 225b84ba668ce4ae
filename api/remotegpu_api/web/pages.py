"""Pages and assets, served from the package, under a policy that lets nothing else in."""

from pathlib import Path
from typing import Final

from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC: Final = Path(__file__).parent.parent / "static"

_POLICY: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
HEADERS: Final = {**_POLICY, "Cache-Control": "no-store"}


def page(name: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse((STATIC / name).read_bytes(), status, headers=HEADERS)


class Assets(StaticFiles):
    """Files under the pages' policy: a picture or a page among them is a page when it is opened."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_POLICY)
        return response


def assets() -> StaticFiles:
    return Assets(directory=STATIC)
