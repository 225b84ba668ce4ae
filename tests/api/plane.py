"""A real control plane in this process: its own database, its bus, and a port of its own."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from ssl import PROTOCOL_TLS_CLIENT, SSLContext
from typing import Any

import httpx

from remotegpu_api.gateway.gateway import Gateway
from remotegpu_api.live.hub import Hub
from remotegpu_api.server import running
from remotegpu_api.state import ServerState
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.errors import Conflict
from remotegpu_core.settings import load_settings
from tests.api.documents import CREATE_USER, SIGN_IN
from tests.services.ports import LOOPBACK, unused_port

ADMIN = "admin"
ADMIN_PASSWORD = "correct-horse-battery-9"
_ATTEMPTS = 5

Json = dict[str, Any]


@dataclass(frozen=True)
class Backend:
    """Where a control plane keeps things. `sqlite` is a migrated file that may be copied."""

    name: str
    sqlite: Path | None = None
    database_url: str | None = None
    redis_url: str | None = None


@dataclass(eq=False)
class Server:
    """A server that listens, seen from outside (HTTP) and from inside."""

    plane: ControlPlane
    state: ServerState
    http: httpx.AsyncClient

    @property
    def port(self) -> int:
        return self.plane.settings.port

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def origin(self) -> str:
        return self.plane.settings.origin

    @property
    def websocket_url(self) -> str:
        return f"ws://{LOOPBACK}:{self.port}"

    @property
    def hub(self) -> Hub:
        return self.state.hub

    @property
    def gateway(self) -> Gateway:
        return self.state.gateway

    async def post(
        self,
        query: str,
        variables: Mapping[str, Any] | None = None,
        *,
        token: str | None = None,
        operation: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a document as clients do."""
        body: Json = {"query": query}
        if variables is not None:
            body["variables"] = variables
        if operation is not None:
            body["operationName"] = operation
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        return await self.http.post("/graphql", json=body, headers=sent)

    async def ask(
        self,
        query: str,
        variables: Mapping[str, Any] | None = None,
        *,
        token: str | None = None,
        operation: str | None = None,
    ) -> Json:
        """The data of a document that works."""
        response = await self.post(query, variables, token=token, operation=operation)
        body = response.json()
        assert "errors" not in body, body["errors"]
        data: Json = body["data"]
        return data

    async def sign_in(self, username: str = ADMIN, password: str = ADMIN_PASSWORD) -> str:
        """A new session's token."""
        answer = await self.ask(SIGN_IN, {"username": username, "password": password})
        assert answer["signIn"]["userErrors"] == []
        token: str = answer["signIn"]["token"]
        return token

    async def make_user(self, admin: str, name: str) -> tuple[str, str]:
        """A user without rights: id and a session's token."""
        password = f"{name}-Passw0rd-1"
        created = await self.ask(
            CREATE_USER,
            {"input": {"username": name, "password": password, "role": "USER"}},
            token=admin,
            operation="CreateUser",
        )
        assert created["createUser"]["userErrors"] == []
        return created["createUser"]["user"]["id"], await self.sign_in(name, password)


@asynccontextmanager
async def serving(backend: Backend, data_dir: Path, **settings: object) -> AsyncIterator[Server]:
    """Serve until the block ends; `settings` override the defaults."""
    lay_out(backend, data_dir)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            async with _serving(backend, data_dir, settings) as server:
                yield server
                return
        except Conflict as error:
            # Somebody took the port between our look and our bind.
            if attempt == _ATTEMPTS or "Port" not in error.message:
                raise


def lay_out(backend: Backend, data_dir: Path) -> None:
    data_dir.mkdir(mode=0o700, exist_ok=True)
    database = data_dir / "remotegpu.sqlite3"
    if backend.sqlite is not None and not database.exists():
        shutil.copy(backend.sqlite, database)


@asynccontextmanager
async def _serving(
    backend: Backend, data_dir: Path, overrides: Mapping[str, object]
) -> AsyncIterator[Server]:
    chosen = load_settings(
        **{
            "port": unused_port(),
            "data_dir": data_dir,
            "database_url": backend.database_url,
            "redis_url": backend.redis_url,
            "admin_password": ADMIN_PASSWORD,
            **overrides,
        }
    )
    async with running(chosen) as (server, plane):
        task = asyncio.create_task(server.run_until_stopped())
        try:
            async with asyncio.timeout(20):
                while not server.started:
                    assert not task.done(), "the server ended before it began"
                    await asyncio.sleep(0.01)
            async with httpx.AsyncClient(
                base_url=f"http://{LOOPBACK}:{chosen.port}",
                trust_env=False,
                timeout=20,
                # Nothing here has TLS, and to read the system's authorities takes 50 ms.
                verify=SSLContext(PROTOCOL_TLS_CLIENT),
            ) as http:
                yield Server(plane, server.config.app.state.server, http)  # type: ignore[union-attr]  # uvicorn's config takes any ASGI application; ours is Starlette's
        finally:
            server.should_exit = True
            await task
