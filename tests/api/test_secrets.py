"""Secrets are written nowhere: planted ones are looked for in all that was written."""

import json
import re
import secrets
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from remotegpu_agent.identity import HostKey
from remotegpu_core.secret import secret_hash
from remotegpu_protocol.openings import enrolling
from tests.api.documents import AUDIT, ENROLL, SIGN_IN, USERS_AND_TOKENS
from tests.api.host import Link
from tests.api.program import started
from tests.services.ports import LOOPBACK, unused_port


class Story:
    """Everything secret that was said, and everything that came back as an error."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.planted: dict[str, str] = {}
        self.bodies: list[str] = []

    def plant(self, name: str) -> str:
        self.planted[name] = f"{name}-Pl4nted-{secrets.token_hex(12)}"
        return self.planted[name]

    def keep(self, name: str, secret: str) -> str:
        """One that the server made."""
        self.planted[name] = secret
        return secret

    async def post(
        self, body: Any, *, token: str | None = None, path: str = "/graphql", **more: Any
    ) -> Any:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
            return await http.post(
                f"http://{LOOPBACK}:{self.port}{path}", json=body, headers=headers, **more
            )

    async def ask(
        self, query: str, variables: Any, token: str | None = None, name: str = ""
    ) -> Any:
        body = {"query": query, "variables": variables, "operationName": name or None}
        answer = (await self.post(body, token=token)).json()
        assert "errors" not in answer, answer
        return answer["data"]

    async def fail(self, body: Any, **more: Any) -> None:
        """Something that is refused; what is said about it is kept."""
        response = await self.post(body, **more)
        assert response.status_code != 200 or "rror" in response.text
        self.bodies.append(response.text)
        self.bodies.append(str(response.headers))

    async def fail_socket(self, init: Any) -> None:
        async with connect(
            f"ws://{LOOPBACK}:{self.port}/graphql",
            subprotocols=[Subprotocol("graphql-transport-ws")],
            proxy=None,
        ) as websocket:
            try:
                await websocket.send(json.dumps(init))
                self.bodies.append(str(await websocket.recv()))
            except ConnectionClosed as closed:
                self.bodies.append(str(closed))


async def _enroll(story: Story, token: str) -> None:
    origin = f"http://{LOOPBACK}:{story.port}"
    opening = enrolling(
        HostKey.generate(),
        token=token,
        origin=origin,
        agent_version="1",
        hostname="node",
        hardware_uuid=None,
    )
    async with connect(
        f"ws://{LOOPBACK}:{story.port}/agent",
        subprotocols=[Subprotocol("remotegpu.agent.v1")],
        proxy=None,
    ) as websocket:
        link = Link(websocket, opening, 0)
        await link.closed()
        story.bodies.append(str(link.received))
        story.bodies.append(str(link.websocket.close_reason))


async def _live(story: Story) -> None:
    password = story.planted["first-password"]
    signed_in = await story.ask(SIGN_IN, {"username": "admin", "password": password})
    admin = story.keep("session", signed_in["signIn"]["token"])

    # Wrong in every way that people are.
    for username, wrong in (
        ("admin", story.plant("wrong-password")),
        (story.plant("password-as-username"), "x"),
        ("nobody", story.plant("password-of-nobody")),
    ):
        await story.fail({"query": SIGN_IN, "variables": {"username": username, "password": wrong}})
        await story.fail({"username": username, "password": wrong}, path="/sign-in")
    typed = story.plant("mistyped")
    for variables in (
        {"username": "admin", "password": [typed]},
        {"username": {"x": typed}, "password": "x"},
        {"username": "admin", "password": None, "extra": typed},
    ):
        await story.fail({"query": SIGN_IN, "variables": variables})
    for query in (
        f'mutation {{ signIn(input: {{ username: "admin", password: "{typed}" }}) {{ x }} }}',
        f'mutation {{ signIn(input: {{ username: "admin", password: "{typed} }}) {{ token }} }}',
    ):
        await story.fail({"query": query})
    await story.fail({"username": "admin", "password": [typed]}, path="/sign-in")

    # Tokens that are none.
    bad = story.plant("bearer")
    await story.fail({"query": "{ __typename }"}, token=bad)
    await story.fail({"query": "{ __typename }"}, token=f"rgs_{bad}")
    await story.fail_socket({"type": "connection_init", "payload": {"token": bad}})
    await story.fail_socket({"type": "connection_init", "payload": {"token": [bad]}})
    await story.fail_socket({"type": bad})

    # Users, their passwords, and what is too weak.
    new = {"username": "ada", "password": story.plant("user-password"), "role": "USER"}
    await story.ask(USERS_AND_TOKENS, {"input": new}, admin, "CreateUser")
    body = {"query": USERS_AND_TOKENS, "operationName": "CreateUser"}
    await story.fail({**body, "variables": {"input": new}}, token=admin)
    await story.fail({**body, "variables": {"input": {**new, "role": "KING"}}}, token=admin)
    long = story.plant("too-long") * 20
    await story.fail(
        {**body, "variables": {"input": {**new, "username": "eve", "password": long}}},
        token=admin,
    )
    signed_in = await story.ask(SIGN_IN, {"username": "ada", "password": new["password"]})
    ada = story.keep("user-session", signed_in["signIn"]["token"])
    change = (
        "mutation($i: ChangePasswordInput!) { changePassword(input: $i) "
        "{ userErrors { field message code } } }"
    )
    changed = {"currentPassword": new["password"], "newPassword": story.plant("new-password")}
    wrong_now = {**changed, "currentPassword": story.plant("not-the-current")}
    await story.fail({"query": change, "variables": {"i": wrong_now}}, token=ada)
    await story.ask(change, {"i": changed}, ada)

    made = await story.ask(
        USERS_AND_TOKENS, {"input": {"name": "ci", "scopes": ["READ"]}}, ada, "CreateApiToken"
    )
    api_token = story.keep("api-token", made["createApiToken"]["token"])
    await story.fail({**body, "variables": {"input": new}}, token=api_token)
    await story.ask(
        USERS_AND_TOKENS, {"id": made["createApiToken"]["apiToken"]["id"]}, ada, "RevokeApiToken"
    )
    await story.fail({"query": "{ __typename }"}, token=api_token)

    # Enrolment: redeemed, replayed, and made up.
    made = await story.ask(ENROLL, {"input": {"machineName": "gpu-01"}}, admin)
    token = story.keep("enrollment", made["createEnrollment"]["token"])
    await _enroll(story, token)
    await _enroll(story, token)
    await _enroll(story, story.plant("made-up-enrollment"))

    # A bucket is asked with a key that is in a file; what comes of it, and of its wrong owner.
    register = (
        "mutation($i: RegisterDatasetInput!) { registerDataset(input: $i) "
        "{ dataset { sizeReason source { location } } userErrors { message } } }"
    )
    source = {"kind": "S3", "location": "s3://models", "endpoint": "http://127.0.0.1:1"}
    registered = await story.ask(register, {"i": {"name": "x", "source": source}}, admin)
    assert "EndpointConnectionError" in registered["registerDataset"]["dataset"]["sizeReason"]
    story.bodies.append(str(registered))

    audit = await story.ask(AUDIT, {}, admin)
    actions = {edge["node"]["action"] for edge in audit["auditEvents"]["edges"]}
    assert {"signIn", "createUser", "changePassword", "createApiToken", "revokeApiToken",
            "createEnrollment", "redeemEnrollment", "registerDataset"} <= actions  # fmt: skip
    story.bodies.append(str(audit))


async def test_no_secret_is_written_anywhere(tmp_path: Path) -> None:
    data, port = tmp_path / "data", unused_port()
    story = Story(port)
    password = story.plant("first-password")
    keys = tmp_path / "s3.toml"
    keys.write_text(
        '[[buckets]]\nbucket = "*"\nendpoint = "http://127.0.0.1:1"\naccess_key = "AKID"\n'
        f'secret_key = "{story.plant("bucket-key")}"\n'
    )
    keys.chmod(0o600)
    environment = {
        "REMOTEGPU_S3_CREDENTIALS": str(keys),
        "REMOTEGPU_DATA_DIR": str(data),
        "REMOTEGPU_PORT": str(port),
        "REMOTEGPU_ADMIN_PASSWORD": password,
        "REMOTEGPU_LOG_LEVEL": "debug",
        "REMOTEGPU_LOG_FORMAT": "json",
    }
    async with started("serve", environment=environment) as server:
        await server.says("Serving")
        await _live(story)
        await server.end()
    files = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    assert any(path.name == "remotegpu.sqlite3" for path in files)
    written = {
        "standard output": server.output.encode(),
        "the log": server.log.encode(),
        "error bodies and the audit trail": "\n".join(story.bodies).encode(),
        **{str(path): content for path, content in files.items()},
    }
    assert len(story.planted) >= 14
    for name, secret in story.planted.items():
        # Whole or in part: a prefix of a token is as good as a hint.
        telling = re.sub(r"^rg[a-z]_", "", secret)[-20:]
        for place, content in written.items():
            assert telling.encode() not in content, f"{name} is in {place}"
            assert telling.replace("-", "_").encode() not in content, f"{name} is in {place}"
    # The instrument works: what is stored of a token is its hash.
    database = files[data / "remotegpu.sqlite3"]
    assert secret_hash(story.planted["enrollment"]).encode() in database
