"""From the sign-in page to a live answer, in a real browser under our policy."""

import asyncio
import json
from urllib.parse import urlsplit

import pytest

from tests.api.browser import Page, browsing
from tests.api.host import enrolled, inventory, sample
from tests.api.plane import ADMIN, ADMIN_PASSWORD, Server
from tests.core.patience import until


async def _sign_in(page: Page, password: str) -> None:
    await page.evaluate(
        f"document.getElementById('username').value = {json.dumps(ADMIN)};"
        f"document.getElementById('password').value = {json.dumps(password)};"
        "document.querySelector('#sign-in button').click()"
    )


@pytest.mark.timeout(240)
async def test_a_person_signs_in_asks_and_signs_out(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with host.connected() as link, browsing() as page:
        await link.send_inventory(inventory("GPU-0", "GPU-1"))
        await link.send(sample())
        await page.open(f"{server.url}/")
        # Nobody is signed in, so the way to the console leads here.
        await page.until("location.pathname === '/sign-in' && document.readyState === 'complete'")
        await _sign_in(page, "wrong")
        error = await page.until(
            "!document.getElementById('error').hidden && "
            "document.getElementById('error').textContent"
        )
        assert "wrong" in error
        assert len(page.complaints) == 1, "the browser notes the refused request itself"
        page.complaints.clear()

        await _sign_in(page, ADMIN_PASSWORD)
        await page.until("location.pathname === '/graphql'")
        shown = await page.until(
            "document.getElementById('viewer') && document.getElementById('viewer').textContent"
        )
        assert shown == "admin (ADMIN)"
        # The cookie is out of every script's reach.
        assert await page.evaluate("document.cookie") == ""

        await page.until("!!document.querySelector('.graphiql-execute-button')")
        await page.evaluate("document.querySelector('.graphiql-execute-button').click()")
        answer = "(document.querySelector('.result-window')?.textContent ?? '')"
        await page.until(f"{answer}.includes('totalCount') && {answer}.includes('gpu-01')")

        # The tab with the live document: a sample that comes now is shown.
        await page.evaluate("document.querySelectorAll('.graphiql-tab-button')[1].click()")
        editor = "document.querySelector('.graphiql-query-editor').textContent"
        await page.until(f"{editor}.includes('subscription') && !{answer}.includes('totalCount')")
        # GraphiQL reads the operation's name a moment after the tab is there; no person is faster.
        while not await page.evaluate(f"{answer}.includes('machineMetrics')"):
            await asyncio.sleep(0.5)
            if not server.hub.sockets or not any(s.operations for s in server.hub.sockets):
                await page.evaluate("document.querySelector('.graphiql-execute-button').click()")
        assert len(server.hub.sockets) == 1

        hosts = {urlsplit(url).netloc for url in page.requests if not url.startswith("data:")}
        assert hosts == {f"127.0.0.1:{server.port}"}
        # No policy was violated and no script failed.
        assert page.complaints == []

        await page.evaluate("document.getElementById('sign-out').click()")
        await page.until("location.pathname === '/sign-in'")
        await until(lambda: not server.hub.sockets)
