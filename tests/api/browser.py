"""A real Chromium without a window, driven over its DevTools protocol."""

import asyncio
import contextlib
import itertools
import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.services.directory import server_directory
from tests.services.process import ServerProcess
from tests.services.programs import find_program

Json = dict[str, Any]

#: Seconds that a page may take; the first start of a browser on a busy machine is slow.
PATIENCE = 60.0


class Page:
    """One tab. `requests` are the URLs that it asked for, `complaints` what its console says."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._websocket = websocket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Json]] = {}
        self._reader = asyncio.create_task(self._read())

    async def command(self, method: str, **parameters: Any) -> Json:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._websocket.send(
            json.dumps({"id": number, "method": method, "params": parameters})
        )
        async with asyncio.timeout(PATIENCE):
            message = await answer
        assert "error" not in message, message
        result: Json = message["result"]
        return result

    async def open(self, url: str) -> None:
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.command(f"{domain}.enable")
        await self.command("Page.navigate", url=url)

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        result = await self.command(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Wait until a JavaScript expression is true, across navigations, and return its value."""
        deadline = time.monotonic() + PATIENCE
        while True:
            # Between two pages there is nothing to ask.
            with contextlib.suppress(AssertionError):
                if value := await self.evaluate(expression):
                    return value
            assert time.monotonic() < deadline, (expression, self.complaints)
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        await self._websocket.close()
        await self._reader

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                message = json.loads(await self._websocket.recv())
                if "id" in message:
                    self._answers.pop(message["id"]).set_result(message)
                else:
                    self._note(message["method"], message["params"])

    def _note(self, method: str, said: Json) -> None:
        match method:
            case "Network.requestWillBeSent":
                self.requests.append(said["request"]["url"])
            case "Network.webSocketCreated":
                self.requests.append(said["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(said["exceptionDetails"]))
            case "Log.entryAdded" if said["entry"]["level"] == "error":
                self.complaints.append(said["entry"]["text"])
            case _:
                pass


@asynccontextmanager
async def browsing() -> AsyncIterator[Page]:
    """A browser of its own with one empty tab."""
    program = _program()
    with server_directory("chromium") as folder:
        profile = folder / "profile"
        process = ServerProcess(
            [
                program,
                "--headless=new",
                # The tests may run as root, for whom it has no sandbox; it loads our pages only.
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
                "--no-proxy-server",
                "--remote-debugging-port=0",
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            log=folder / "chromium.log",
        )
        try:
            port_file = profile / "DevToolsActivePort"
            await asyncio.to_thread(process.wait_until, lambda: _written(port_file))
            async with connect(
                await _first_tab(int(port_file.read_text().splitlines()[0])),
                max_size=None,
                proxy=None,
                compression=None,
            ) as websocket:
                page = Page(websocket)
                try:
                    yield page
                finally:
                    await page.stop()
        finally:
            process.stop()


def _program() -> Path:
    names = ("chromium", "chromium-browser", "google-chrome")
    if not any(shutil.which(name) for name in names) and not _is_debian():
        pytest.skip("Ubuntu's chromium is a snap; install a browser by hand to run this.")
    return find_program(*names, package="chromium")


def _is_debian() -> bool:
    with contextlib.suppress(OSError):
        return "ID=debian" in Path("/etc/os-release").read_text().splitlines()
    return False


def _written(path: Path) -> bool:
    return path.is_file() and len(path.read_text().splitlines()) >= 2


async def _first_tab(port: int) -> str:
    async with httpx.AsyncClient(trust_env=False) as http:
        tabs = (await http.get(f"http://127.0.0.1:{port}/json/list")).json()
    address: str = next(tab for tab in tabs if tab["type"] == "page")["webSocketDebuggerUrl"]
    return address
