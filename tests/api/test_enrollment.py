"""Enrolment over the real socket: one token, one host, and a reason for everybody else."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from remotegpu_core.models import AuditEvent, Enrollment, Machine, Outcome
from remotegpu_core.states import Lifecycle
from remotegpu_protocol.messages import Enrolled, Error
from remotegpu_protocol.openings import enrolling
from tests.api.documents import ENROLL
from tests.api.host import Host, Link, enrolled, enrollment_token, inventory, socket
from tests.api.plane import Backend, Server, serving
from tests.core.patience import until

HARDWARE = "4c4c4544-0042-3510-8052-b4c04f564433"


async def _refused(host: Host, token: str, *, hardware: str | None = None) -> Error:
    answer = await host.enroll(token, hardware=hardware)
    assert isinstance(answer, Error), answer
    assert answer.fatal
    return answer


async def test_a_host_becomes_a_machine(any_server: Server) -> None:
    server = any_server
    admin = await server.sign_in()
    made = await server.ask(
        ENROLL,
        {"input": {"machineName": "gpu-01", "labels": [{"key": "rack", "value": "a1"}]}},
        token=admin,
    )
    host = Host(server)
    answer = await host.enroll(made["createEnrollment"]["token"], hardware=HARDWARE)
    assert isinstance(answer, Enrolled)
    assert answer.machine_name == "gpu-01"
    found = await server.ask(
        "{ machines { edges { node { name presence lifecycle labels { key value } agentVersion "
        "lastSeenAt latestMetrics { sampledAt } specs { cpuModel } gpus { uuid } } } } }",
        token=admin,
    )
    assert [edge["node"] for edge in found["machines"]["edges"]] == [
        {
            "name": "gpu-01",
            "presence": "UNREACHABLE",
            "lifecycle": "IN_SERVICE",
            "labels": [{"key": "rack", "value": "a1"}],
            "agentVersion": "1.2.3",
            "lastSeenAt": None,
            "latestMetrics": None,
            "specs": None,
            "gpus": [],
        }
    ]
    async with host.connected() as link:
        assert link.epoch == 1
        assert link.link.welcome is not None
        assert link.link.welcome.machine_name == "gpu-01"


async def test_a_replayed_token_is_refused(server: Server) -> None:
    admin = await server.sign_in()
    token = await enrollment_token(server, admin, "gpu-01")
    host = Host(server)
    first = await host.enroll(token)
    assert isinstance(first, Enrolled)
    error = await _refused(Host(server), token)
    assert error.code == "ENROLLMENT_REFUSED"
    assert "used already" in error.message
    assert token not in error.message
    # The host that never saw the answer may ask again, with its own key.
    again = await host.enroll(token)
    assert again == first
    assert await Machine.all().count() == 1


async def test_a_hundred_hosts_race_for_one_token(any_server: Server) -> None:
    server = any_server
    admin = await server.sign_in()
    token = await enrollment_token(server, admin, "gpu-01")
    hosts = [Host(server) for _ in range(100)]
    answers = await asyncio.gather(*(host.enroll(token) for host in hosts))
    assert sum(isinstance(answer, Enrolled) for answer in answers) == 1
    refusals = {answer.code for answer in answers if isinstance(answer, Error)}
    assert refusals == {"ENROLLMENT_REFUSED"}
    assert await Machine.all().count() == 1


async def test_an_expired_token_is_refused(embedded: Backend, tmp_path: Path) -> None:
    async with serving(embedded, tmp_path / "state", enrollment_lifetime=1) as server:
        admin = await server.sign_in()
        token = await enrollment_token(server, admin, "gpu-01")
        await asyncio.sleep(1.1)
        error = await _refused(Host(server), token)
        assert (error.code, "expired" in error.message) == ("ENROLLMENT_REFUSED", True)
        assert await Machine.all().count() == 0


async def test_a_revoked_and_an_unknown_token_are_refused(server: Server) -> None:
    admin = await server.sign_in()
    made = await server.ask(ENROLL, {"input": {"machineName": "gpu-01"}}, token=admin)
    payload = made["createEnrollment"]
    await server.ask(
        "mutation($i: RevokeEnrollmentInput!) { revokeEnrollment(input: $i) "
        "{ userErrors { code } } }",
        {"i": {"id": payload["enrollment"]["id"]}},
        token=admin,
    )
    error = await _refused(Host(server), payload["token"])
    assert (error.code, "revoked" in error.message) == ("ENROLLMENT_REFUSED", True)
    unknown = await _refused(Host(server), "rge_" + "A" * 43)
    assert unknown.code == "ENROLLMENT_REFUSED"
    # Another kind of secret opens nothing.
    assert (await _refused(Host(server), admin)).code == "ENROLLMENT_REFUSED"


async def test_a_token_is_stored_as_a_hash_only(server: Server) -> None:
    admin = await server.sign_in()
    token = await enrollment_token(server, admin, "gpu-01")
    row = await Enrollment.get()
    assert token not in str({name: getattr(row, name) for name in row._meta.fields})
    assert len(row.token_hash) == 64
    assert 590_000 < row.expires_at - row.created_at <= 600_000


async def test_the_signature_covers_what_is_said(server: Server) -> None:
    admin = await server.sign_in()
    token = await enrollment_token(server, admin, "gpu-01")
    honest, thief = Host(server), Host(server)
    opening = enrolling(
        honest.key,
        token=token,
        origin=server.origin,
        agent_version="1",
        hostname="node",
        hardware_uuid=None,
    )

    def with_another_key(challenge, clock):  # type: ignore[no-untyped-def]  # an Opening
        from msgspec.structs import replace

        return replace(opening(challenge, clock), public_key=thief.key.public_key)

    async with socket(server) as websocket:
        link = Link(websocket, with_another_key, 0)
        code, _ = await link.closed()
    assert code == 4401
    assert link.of(Error)[0].code == "AUTHENTICATION_FAILED"
    # The token is as good as it was.
    assert isinstance(await honest.enroll(token), Enrolled)


async def test_hardware_that_is_registered_already_waits_for_an_admin(any_server: Server) -> None:
    server = any_server
    admin = await server.sign_in()
    names = ("gpu-01", "gpu-02", "gpu-03")
    tokens = [await enrollment_token(server, admin, name) for name in names]
    assert isinstance(await Host(server).enroll(tokens[0], hardware=HARDWARE), Enrolled)
    assert isinstance(await Host(server).enroll(tokens[1], hardware=HARDWARE.upper()), Enrolled)
    second = await Machine.get(name="gpu-02")
    assert (second.lifecycle, second.hardware_uuid) == (Lifecycle.QUARANTINED, None)
    assert HARDWARE in (second.lifecycle_reason or "")
    # What firmware leaves there when nobody filled it in is no identity.
    placeholder = "03000200-0400-0500-0006-000700080009"
    assert isinstance(await Host(server).enroll(tokens[2], hardware=placeholder), Enrolled)


async def test_enrolling_anew_ends_the_link_of_the_old_key(any_server: Server) -> None:
    server = any_server
    admin = await server.sign_in()
    old = await enrolled(server, admin, "gpu-01")
    async with old.connected() as link:
        await link.send_inventory(inventory("GPU-0"))
        made = await server.ask(
            "mutation($i: CreateEnrollmentInput!) { createEnrollment(input: $i) "
            "{ token userErrors { message } } }",
            {"i": {"machineId": old.id}},
            token=admin,
        )
        assert made["createEnrollment"]["userErrors"] == []
        new = Host(server)
        answer = await new.enroll(made["createEnrollment"]["token"])
        assert isinstance(answer, Enrolled)
        assert answer.machine_id == old.machine_id
        code, reason = await link.closed(within=2)
        assert code == 4403
        assert reason is not None
        assert reason.startswith("The host was enrolled anew")
    # The key is known as one that was revoked.
    async with old.dialled() as again:
        assert (await again.closed())[0] == 4403
        assert [error.code for error in again.of(Error)] == ["REVOKED"]
    async with new.connected() as link:
        assert link.epoch == 3
    assert await Machine.all().count() == 1


async def test_a_host_that_is_enrolled_anew_and_never_comes_back_is_not_online(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remotegpu_api.gateway.presence_duty.UNREACHABLE_AFTER", 0.5)
    admin = await server.sign_in()
    old = await enrolled(server, admin, "gpu-01")
    async with old.connected() as link:
        made = await server.ask(
            "mutation($i: CreateEnrollmentInput!) { createEnrollment(input: $i) { token } }",
            {"i": {"machineId": old.id}},
            token=admin,
        )
        await Host(server).enroll(made["createEnrollment"]["token"])
        await link.closed()
    presence = ""
    for _ in range(60):
        machine = await Machine.get()
        presence = machine.presence
        if presence == "UNREACHABLE":
            break
        await asyncio.sleep(0.1)
    assert presence == "UNREACHABLE"


async def test_what_happened_is_in_the_audit_trail(server: Server) -> None:
    admin = await server.sign_in()
    token = await enrollment_token(server, admin, "gpu-01")
    await Host(server).enroll(token)
    redeemed = await AuditEvent.get(action="redeemEnrollment", outcome=Outcome.SUCCEEDED)
    assert redeemed.source_address == "127.0.0.1"
    assert redeemed.details["machine"] == "gpu-01"
    for event in await AuditEvent.all():
        assert token not in str(event.details)


async def test_a_caller_who_leaves_before_the_answer_harms_nobody(server: Server) -> None:
    admin = await server.sign_in()
    token = await enrollment_token(server, admin, "gpu-01")
    host = Host(server)
    opening = enrolling(
        host.key,
        token=token,
        origin=server.origin,
        agent_version="1",
        hostname="node",
        hardware_uuid=None,
    )
    async with socket(server) as websocket:
        link = Link(websocket, opening, 0)
        await until(lambda: link.link._opened_with is not None)
        with contextlib.suppress(OSError):
            await link.vanish()
    # Whether or not it was redeemed: the same key may do it again.
    assert isinstance(await host.enroll(token), Enrolled)
