"""The cookies of browsers: the session's token, and the device's."""

from typing import Final

from starlette.requests import HTTPConnection
from starlette.responses import Response

from remotegpu_core.settings import Settings

SESSION: Final = "remotegpu_session"
DEVICE: Final = "remotegpu_device"

#: Seconds that a browser is known after its last sign-in.
DEVICE_LIFETIME: Final = 365 * 86_400


def cookie_name(name: str, settings: Settings) -> str:
    """The name that a browser is told. Behind TLS nobody but this very host, over TLS, can set a
    cookie of it: neither a page of another host of its domain nor somebody on the way."""
    return f"__Host-{name}" if _is_secure(settings) else name


def read_cookie(connection: HTTPConnection, name: str, settings: Settings) -> str | None:
    return connection.cookies.get(cookie_name(name, settings))


def set_cookie(
    response: Response, name: str, value: str, settings: Settings, *, lifetime: int
) -> None:
    response.set_cookie(
        cookie_name(name, settings),
        value,
        max_age=lifetime,
        secure=_is_secure(settings),
        httponly=True,
        samesite="strict",
        path="/",
    )


def delete_cookie(response: Response, name: str, settings: Settings) -> None:
    response.delete_cookie(
        cookie_name(name, settings),
        path="/",
        secure=_is_secure(settings),
        httponly=True,
        samesite="strict",
    )


def _is_secure(settings: Settings) -> bool:
    return settings.origin.startswith("https:")
