"""Enrolling against a real websocket server that drives the control plane's end."""

from pathlib import Path

import pytest

from remotegpu_agent.enroll import check_token, enroll_host
from remotegpu_agent.errors import (
    AlreadyEnrolled,
    AlreadyRunning,
    NotEnrolled,
    Refused,
    SettingError,
    Unreachable,
)
from remotegpu_agent.host import host_name
from remotegpu_agent.identity import load_identity
from remotegpu_agent.sources.choose import SourceKind, SourceSettings
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.errors import InvalidValue
from remotegpu_protocol.messages import Enroll
from tests.agent.authority import Authority
from tests.agent.control_plane import ControlPlane, running_control_plane


async def test_a_token_makes_a_machine(plane: ControlPlane, directory: StateDirectory) -> None:
    plane.tokens["token-1"] = None
    await enroll_host(directory, server=plane.origin.upper() + "/", token="token-1")
    identity = load_identity(directory)
    assert (identity.machine_id, identity.machine_name) == ("machine-1", "node-1")
    assert identity.origin == plane.origin
    assert plane.machines == {"machine-1": identity.key.public_key}
    assert plane.peers[0].of(Enroll)[0].hostname == host_name()


async def test_a_lost_answer_costs_nothing(plane: ControlPlane, directory: StateDirectory) -> None:
    plane.tokens["token-1"] = None
    plane.lose_answer = True
    with pytest.raises(Unreachable, match="Run the same command again"):
        await enroll_host(directory, server=plane.origin, token="token-1")
    with pytest.raises(NotEnrolled):
        load_identity(directory)
    plane.lose_answer = False
    identity = await enroll_host(directory, server=plane.origin, token="token-1")
    assert plane.machines == {identity.machine_id: identity.key.public_key}


async def test_a_bad_token_is_refused_and_leaves_no_identity(
    plane: ControlPlane, directory: StateDirectory
) -> None:
    with pytest.raises(Refused, match="expired or was used"):
        await enroll_host(directory, server=plane.origin, token="token-9")
    with pytest.raises(NotEnrolled):
        load_identity(directory)


async def test_an_enrolled_host_stays_what_it_is_unless_told(
    plane: ControlPlane, directory: StateDirectory
) -> None:
    plane.tokens |= {"token-1": None, "token-2": None}
    first = await enroll_host(directory, server=plane.origin, token="token-1")
    with pytest.raises(AlreadyEnrolled, match="--replace"):
        await enroll_host(directory, server=plane.origin, token="token-2")
    assert load_identity(directory).key.public_key == first.key.public_key
    assert plane.tokens["token-2"] is None
    second = await enroll_host(directory, server=plane.origin, token="token-2", replace=True)
    assert second.key.public_key != first.key.public_key
    assert load_identity(directory).machine_id == "machine-2"


async def test_a_failed_replacement_keeps_the_old_identity(
    plane: ControlPlane, directory: StateDirectory
) -> None:
    plane.tokens["token-1"] = None
    first = await enroll_host(directory, server=plane.origin, token="token-1")
    with pytest.raises(Refused):
        await enroll_host(directory, server=plane.origin, token="token-9", replace=True)
    assert load_identity(directory).key.public_key == first.key.public_key


async def test_simulated_hosts_on_one_machine_differ(plane: ControlPlane, tmp_path: Path) -> None:
    plane.tokens |= {"token-1": None, "token-2": None}
    settings = SourceSettings(kind=SourceKind.SIMULATED)
    for token in ("token-1", "token-2"):
        await enroll_host(
            StateDirectory(tmp_path / token), server=plane.origin, token=token, settings=settings
        )
    one, two = (peer.of(Enroll)[0] for peer in plane.peers)
    assert one.hardware_uuid != two.hardware_uuid
    assert one.hostname != two.hostname


async def test_the_private_authority_is_remembered(
    tmp_path: Path, directory: StateDirectory
) -> None:
    authority = Authority(tmp_path / "ca")
    async with running_control_plane(tls=authority.server_context()) as plane:
        plane.tokens["token-1"] = None
        await enroll_host(directory, server=plane.origin, token="token-1", ca_file=authority.file)
    assert load_identity(directory).ca_file == str(authority.file)


async def test_nothing_is_made_for_an_address_that_may_not_be_dialled(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path / "state")
    with pytest.raises(InvalidValue, match="TLS only"):
        await enroll_host(directory, server="http://gpu.example.org", token="token-1")
    assert not directory.exists()


async def test_a_running_agent_is_not_replaced(
    plane: ControlPlane, directory: StateDirectory
) -> None:
    with directory.locked(), pytest.raises(AlreadyRunning, match="Stop it first"):
        await enroll_host(directory, server=plane.origin, token="token-1")


@pytest.mark.parametrize("token", ["", "two words", "x" * 257, "tok\x1ben", "tokén"])
def test_what_cannot_be_a_token_is_refused_without_being_repeated(token: str) -> None:
    with pytest.raises(SettingError) as caught:
        check_token(token)
    assert not token or token not in caught.value.message
