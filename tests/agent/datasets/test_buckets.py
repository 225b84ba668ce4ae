"""Buckets of a real S3 service, mounted through a real s3fs."""

import json
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from remotegpu_agent.commands.handler import NOT_DONE, CommandFailed, Done
from remotegpu_agent.datasets.clients import clients_of
from remotegpu_agent.datasets.credentials import DEFAULT_PATH, find_key
from remotegpu_agent.datasets.records import ROOT
from remotegpu_agent.datasets.s3 import AUTHORITIES_VARIABLE
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.bucket_keys import BucketKey
from remotegpu_protocol.kinds import DatasetMount, Nothing
from tests.agent.authority import Authority
from tests.agent.datasets.host import ADA, BOB, Host, as_user, dataset, traces
from tests.agent.datasets.service import SECRET, running_service, write_keys
from tests.agent.reclaim.isolation import is_isolated
from tests.agent.reclaim.tenant import tool
from tests.services.s3 import client_of

pytestmark = pytest.mark.isolated


@pytest.fixture
def endpoint() -> Iterator[str]:
    if not is_isolated():
        yield ""
        return
    with running_service() as endpoint:
        yield endpoint


def bucket(at: str, **changes: object) -> DatasetMount:
    return dataset(**{"kind": "S3", "location": "s3://models/imagenet", "endpoint": at} | changes)


def test_a_bucket_is_seen_by_its_user_alone(directory: StateDirectory, endpoint: str) -> None:
    host = Host(directory)
    write_keys(endpoint)
    before = traces(directory)
    reading = bucket(endpoint)
    writing = bucket(
        endpoint, mount_id="m2", path="/mnt/w", location="s3://models", read_only=False
    )
    assert host.mount(reading) is None
    assert host.looked_up(reading) == Done(Nothing())
    assert host.mount(writing) is None
    path = reading.path
    assert as_user(ADA, "find", f"{path}/", "-type", "f").stdout == f"{path}/a/one\n"
    assert as_user(ADA, "cat", f"{path}/a/one").stdout == "canary"
    assert "Read-only file system" in as_user(ADA, "touch", f"{path}/a/new").stderr
    for way in (path, ROOT / ADA / "m1", "/mnt/w/top"):
        assert "Permission denied" in as_user(BOB, "ls", f"{way}").stderr or (
            "Permission denied" in as_user(BOB, "ls", f"{way}/").stderr
        ), way
    # What is written is in the bucket, with its user as the owner of all they see.
    assert as_user(ADA, "cp", f"{path}/a/one", "/mnt/w/copy").returncode == 0
    written = client_of(endpoint).get_object(Bucket="models", Key="copy")["Body"].read()
    assert written == b"canary"
    uid = str(pwd.getpwnam(ADA).pw_uid)
    assert tool("stat", "-c", "%u %a", "/mnt/w/top").split() == [uid, "700"]
    for line in traces(directory):
        if " - fuse.s3fs " in line:
            assert {"nosuid", "nodev"} <= set(line.split()[2].split(","))
    # The key is in no command line, and in no file once the client has read it.
    for pid in clients_of("s3fs", ROOT / ADA / "m1"):
        assert SECRET.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert SECRET.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    for place in (Path("/run/remotegpu"), directory.path):
        found = subprocess.run(
            ["grep", "-rlF", "--exclude-dir=mounts", SECRET, str(place)], capture_output=True
        )
        assert found.stdout == b""

    # A client that died is noticed, and put in its place by the same command.
    for pid in clients_of("s3fs", ROOT / ADA / "m1"):
        tool("kill", "-KILL", str(pid))
    assert host.mount(reading) is None
    assert as_user(ADA, "cat", f"{path}/a/one").stdout == "canary"
    # One goes while somebody is in it; its client does not stay.
    inside = subprocess.Popen(["sleep", "60"], cwd=ROOT / ADA / "m2")
    assert host.unmount("m2") is None
    assert host.unmount("m1") is None
    inside.kill()
    inside.wait()
    assert host.looked_up(reading) == NOT_DONE
    assert traces(directory) == before


def test_what_is_refused(directory: StateDirectory, endpoint: str) -> None:
    host = Host(directory)
    before = traces(directory)
    # Without keys the host is nobody in particular. Here, everybody may list this bucket.
    assert host.mount(bucket(endpoint)) is None
    assert as_user(ADA, "ls", "/mnt/team/imagenet/a").stdout == "one\n"
    assert host.unmount("m1") is None
    write_keys(endpoint)
    cases = {
        "SOURCE_UNREACHABLE": {"endpoint": "http://127.0.0.1:1"},
        "SOURCE_REFUSED": {"location": "s3://nowhere"},
        "PATH_TAKEN": {"path": "/mnt/taken"},
    }
    Path("/mnt/taken").mkdir()
    before = traces(directory)
    for code, changes in cases.items():
        assert host.mount(bucket(endpoint, **changes)) == code
        assert traces(directory) == before
    for mode in (0o640, 0o604, 0o620):
        write_keys(endpoint, mode)
        assert host.mount(bucket(endpoint)) == "CREDENTIALS"
        assert traces(directory) == before
    # By a mistake in it nothing of a key gets out.
    for content in (f'secret_key = "{SECRET}', f"secret_key = {SECRET}", f'{{"{SECRET}": 1}}'):
        DEFAULT_PATH.write_text(content)
        DEFAULT_PATH.chmod(0o600)
        with pytest.raises(CommandFailed) as refused:
            find_key(endpoint, "models")
        assert refused.value.code == "CREDENTIALS"
        assert SECRET not in refused.value.message
    write_keys(endpoint, secret="with:colon")
    assert host.mount(bucket(endpoint)) == "CREDENTIALS"
    write_keys(f"{endpoint}/")
    assert find_key(endpoint, "models") == BucketKey("models", "KEY", SECRET, f"{endpoint}/")
    assert find_key(endpoint, "model") is None
    assert find_key(None, "models") is None
    tool("mount", "--bind", "/dev/null", "/usr/bin/s3fs")
    assert host.mount(bucket(endpoint)) == "NO_FUSE_CLIENT"
    tool("umount", "/usr/bin/s3fs")
    tool("mount", "--bind", "/dev/null", "/dev/fuse")
    assert host.mount(bucket(endpoint)) == "NO_FUSE"
    tool("umount", "/dev/fuse")
    assert traces(directory) == before
    assert json.loads((directory.path / "mounts.json").read_text())["mounts"] == []


def test_a_bucket_behind_a_private_authority(
    directory: StateDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(directory)
    authority = Authority(tmp_path / "ca")
    variables = (AUTHORITIES_VARIABLE, "AWS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
    for variable in variables:
        monkeypatch.delenv(variable, raising=False)
    with running_service(authority.certificate_file(), authority.file) as endpoint:
        assert host.mount(bucket(endpoint)) == "SOURCE_REFUSED"
        for variable in variables:
            monkeypatch.setenv(variable, str(authority.file))
            assert host.mount(bucket(endpoint)) is None
            assert as_user(ADA, "ls", "/mnt/team/imagenet/a").stdout == "one\n"
            assert host.unmount("m1") is None
            monkeypatch.delenv(variable)
        monkeypatch.setenv("AWS_CA_BUNDLE", "/etc/none.pem")
        assert host.mount(bucket(endpoint)) == "NO_AUTHORITIES"
