"""Data sets under the packaged unit, on a host that systemd has booted, for users who sign in."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from remotegpu_agent.datasets.clients import clients_of
from remotegpu_agent.datasets.records import ROOT
from remotegpu_agent.identity import Identity
from remotegpu_protocol.commands import Command, Event, EventState
from remotegpu_protocol.kinds import (
    ALLOCATION_START,
    DATASET_MOUNT,
    AllocationStart,
    DatasetMount,
    pack_arguments,
)
from tests.agent.commands.commander import HOUR_MS, Commander
from tests.agent.control_plane import ControlPlane
from tests.agent.datasets.host import ADA, ALLOWED, allocation_of, allow, dataset
from tests.agent.datasets.service import running_service, write_keys
from tests.agent.reclaim.resident import Resident, make_key
from tests.agent.reclaim.tenant import tool
from tests.agent.reclaim.test_hosts import by_surface
from tests.agent.reclaim.test_unit import cleaning, install, start

pytestmark = pytest.mark.booted

_ALLOCATION = allocation_of(ADA)
_SETS = Path("/srv/sets/imagenet")


def mounting(commander: Commander, mount: DatasetMount) -> Command:
    return msgspec.structs.replace(
        commander.start(_ALLOCATION),
        kind=DATASET_MOUNT.name,
        arguments=pack_arguments(DATASET_MOUNT, mount),
    )


def prepare() -> None:
    allow(ALLOWED)
    _SETS.mkdir(parents=True)
    (_SETS / "canary").write_text("canary")


def nothing_is_left() -> None:
    assert str(ROOT) not in Path("/proc/self/mountinfo").read_text()
    assert not clients_of("s3fs", ROOT / ADA / "m2")
    assert "remotegpu-m" not in tool("systemctl", "list-units", "--all", "--no-legend", "--plain")
    assert not Path("/data").exists()
    assert (_SETS / "canary").read_text() == "canary"


async def test_seen_by_sessions_and_longer_lived_than_the_agent(
    plane: ControlPlane, identity: Identity, tmp_path: Path
) -> None:
    install(identity)
    prepare()
    plane.sample_interval = 3600.0
    commander = Commander(plane)

    async def done(command: Command) -> Event:
        await commander.give(command)
        return await commander.outcome(command)

    key = make_key(tmp_path / "key")
    public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
    arguments = AllocationStart(_ALLOCATION, "ada", False, [], plane.clock + HOUR_MS, ADA, [public])
    packed = pack_arguments(ALLOCATION_START, arguments)
    start(loosened=True)
    await plane.peer(1)
    assert (
        await done(commander.start(_ALLOCATION, arguments=packed))
    ).state is EventState.SUCCEEDED
    ada = Resident(ADA, key)

    # Under the unit as it is, the agent would mount for itself alone.
    start(loosened=False)
    await plane.peer(2)
    blind = await done(mounting(commander, dataset()))
    assert (blind.state, blind.error_code) == (EventState.FAILED, "NOT_HOST_VIEW")
    start(loosened=True)
    await plane.peer(3)
    with ada.stay("sh") as session, running_service() as endpoint:
        write_keys(endpoint)
        bucket = dataset(
            mount_id="m2",
            kind="S3",
            location="s3://models/imagenet",
            endpoint=endpoint,
            path="/data/bucket",
        )
        for mount in (dataset(path="/data/imagenet"), bucket):
            event = await done(mounting(commander, mount))
            assert event.state is EventState.SUCCEEDED, event
        # By sessions that were open before as well, and where there was no /data.
        assert session.stdin is not None
        assert session.stdout is not None
        session.stdin.write("cat /data/imagenet/canary /data/bucket/a/one; echo\n")
        session.stdin.flush()
        assert await asyncio.to_thread(session.stdout.readline) == "canarycanary\n"
        assert tool("systemctl", "is-active", "remotegpu-m2-*") == "active\n"

        clients = clients_of("s3fs", ROOT / ADA / "m2")
        assert clients
        tool("systemctl", "restart", "remotegpu-agent.service")
        await plane.peer(4)
        assert clients_of("s3fs", ROOT / ADA / "m2") == clients
        assert await asyncio.to_thread(ada.ssh, "cat /data/bucket/a/one") == "canary"

        report = cleaning(await done(commander.end(_ALLOCATION, generation=4)))
    assert report.verified, [item for item in report.items if not item.verified]
    assert by_surface(report)["data sets"].found == 2
    nothing_is_left()
