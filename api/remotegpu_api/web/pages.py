"""Pages and assets, served from the package, under a policy that lets nothing else in."""

from pathlib import Path
from typing import Final

from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

STATIC: Final = Path(__file__).parent.parent / "static"

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def page(name: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse((STATIC / name).read_bytes(), status, headers=HEADERS)


def assets() -> StaticFiles:
    return StaticFiles(directory=STATIC)
