"""Apollo's automatic persisted queries, over each transport."""

import json
from typing import Any

import httpx
import pytest

from remotegpu_core.persisted_documents import digest_of
from remotegpu_core.services.sign_in import authenticate
from tests.api.documents import VIEWER
from tests.api.plane import ADMIN, Server
from tests.api.viewer import Ended, viewing

GRAPHQL = "application/graphql-response+json"


def _named(source: str) -> dict[str, Any]:
    return {"persistedQuery": {"version": 1, "sha256Hash": digest_of(source)}}


def _is_unknown(response: httpx.Response) -> bool:
    (error,) = response.json()["errors"]
    return (error["message"], error["extensions"]["code"]) == (
        "PersistedQueryNotFound",
        "PERSISTED_QUERY_NOT_FOUND",
    )


async def test_a_document_is_sent_once_and_named_from_then_on(any_server: Server) -> None:
    server = any_server
    admin = await server.sign_in()
    headers = {"Authorization": f"Bearer {admin}"}
    named = {"extensions": _named(VIEWER)}
    unknown = await server.http.post("/graphql", json=named, headers=headers)
    assert unknown.status_code == 200
    assert _is_unknown(unknown)
    typed = await server.http.post("/graphql", json=named, headers={**headers, "Accept": GRAPHQL})
    assert typed.status_code == 400
    assert _is_unknown(typed)
    added = await server.http.post("/graphql", json={**named, "query": VIEWER}, headers=headers)
    assert added.json()["data"]["viewer"]["user"]["username"] == ADMIN
    posted = await server.http.post("/graphql", json={**named, "query": None}, headers=headers)
    fetched = await server.http.get(
        "/graphql", params={"extensions": json.dumps(_named(VIEWER))}, headers=headers
    )
    assert posted.json()["data"] == fetched.json()["data"] == added.json()["data"]
    # Who asks is looked at each time, and a hash gives nobody more than the document would.
    stranger = await server.http.post("/graphql", json=named)
    assert stranger.json()["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"


async def test_what_is_not_kept_runs_all_the_same(server: Server) -> None:
    for source, extensions in (("{ __typename }", {}), ("{ a: __typename }", {"x": 1})):
        body = {"query": source, "extensions": {**_named(source), **extensions}}
        assert "data" in (await server.http.post("/graphql", json=body)).json()
        # Strangers add nothing.
        assert _is_unknown(await server.http.post("/graphql", json={"extensions": _named(source)}))


async def test_a_hash_of_another_document_is_refused(server: Server) -> None:
    admin = await server.sign_in()
    body = {"query": "{ __typename }", "extensions": _named(VIEWER)}
    response = await server.http.post(
        "/graphql", json=body, headers={"Authorization": f"Bearer {admin}"}
    )
    assert response.status_code == 400
    assert "sha256Hash" in response.json()["errors"][0]["message"]
    # A document that cannot run is not kept under its hash either.
    broken = {"query": "{ no }", "extensions": _named("{ no }")}
    for _ in range(2):
        await server.http.post(
            "/graphql", json=broken, headers={"Authorization": f"Bearer {admin}"}
        )
    assert _is_unknown(await server.http.post("/graphql", json={"extensions": _named("{ no }")}))


async def test_a_mutation_that_is_only_named_is_not_run_by_get(server: Server) -> None:
    admin = await server.sign_in()
    mutation = "mutation { signOut { user { id } } }"
    headers = {"Authorization": f"Bearer {admin}"}
    await server.plane.documents.keep(await authenticate(admin), digest_of(mutation), mutation)
    named = {"extensions": json.dumps(_named(mutation))}
    assert (await server.http.get("/graphql", params=named, headers=headers)).status_code == 405
    assert (await server.post(VIEWER, token=admin)).status_code == 200


async def test_over_a_websocket(server: Server) -> None:
    admin = await server.sign_in()
    async with viewing(server, admin) as viewer:
        unknown = await viewer.send_payload({"extensions": _named(VIEWER)})
        with pytest.raises(Ended) as caught:
            await unknown.next()
        assert caught.value.errors[0]["message"] == "PersistedQueryNotFound"
        added = await viewer.send_payload({"query": VIEWER, "extensions": _named(VIEWER)})
        known = await viewer.send_payload({"extensions": _named(VIEWER)})
        assert await added.data() == await known.data()
        wrong = await viewer.send_payload({"query": "{ __typename }", "extensions": _named(VIEWER)})
        with pytest.raises(Ended) as caught:
            await wrong.next()
        assert caught.value.errors[0]["extensions"]["code"] == "BAD_REQUEST"
