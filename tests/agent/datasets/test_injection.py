"""Names that mean something to a shell, to mount(8), to s3fs(1) or to a path, against the real ones."""

import random
from pathlib import Path

import msgspec
import pytest

from remotegpu_agent.commands.admission import refusal
from remotegpu_agent.commands.policy import PolicyFile
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.commands import Command, EventState
from remotegpu_protocol.datasets import SourceKind, check_location
from remotegpu_protocol.errors import InvalidValue
from remotegpu_protocol.kinds import DATASET_MOUNT
from tests.agent.datasets.host import ADA, Host, as_user, dataset, traces
from tests.agent.datasets.service import running_service, write_keys
from tests.services.s3 import client_of

pytestmark = pytest.mark.isolated

_CANARY = Path("/run/injected")
_HOSTILE = [
    *("..", "../../etc", "a/../../../etc", ".", "", "a//b", "-o", "--bind", "-oexec,suid"),
    *(f"$(touch {_CANARY})", f"`touch {_CANARY}`", f"a; touch {_CANARY}", f"a|touch {_CANARY}"),
    *(f"a\ntouch {_CANARY}", f"a && touch {_CANARY}", f"a' ; touch {_CANARY} '", "a\0b", "a\\040b"),
    *(
        "a,suid,dev",
        "a,uid=0",
        "a,allow_root",
        "a b",
        "a\tb",
        "a#b",
        "a*",
        "{a,b}",
        "~root",
        "%2e%2e",
    ),
    *("\u2024\u2024", "．．", "a\u202eb", "\u0661"),
]
#: What the grammar of a directory's name lets through that some program might take for its own.
_ODD = [
    *(
        "-o",
        "--",
        "-",
        "--bind",
        "-oexec",
        "a b",
        " ",
        " a",
        "a ",
        "~",
        "~root",
        "=",
        "a=b",
        "uid=0",
    ),
    *(
        ":",
        "a:b",
        "@",
        "+",
        "...",
        "..a",
        ".a",
        ".-",
        "--make-shared",
        "LABEL=x",
        "UUID=1",
        "a" * 255,
    ),
]
_DEADLINE = 2_000_000_000_000
_LETTERS = "aZ9._+@ ~=:-"
_ODD_PREFIXES = ["-o", "--help", "a=b", "uid=0", "@x+y", "-ouid=0", "..a", "a-/-b"]


def seen(directory: StateDirectory) -> list[str]:
    """Traces without what the test itself made."""
    return [line for line in traces(directory) if not line.startswith("/srv/")]


def test_odd_names_are_names_and_nothing_else(directory: StateDirectory) -> None:
    host = Host(directory)
    before = seen(directory)
    chance = random.Random(7)
    made = ["".join(chance.choices(_LETTERS, k=chance.randint(1, 12))) for _ in range(15)]
    names = []
    for name in [*_ODD, *made]:
        try:
            check_location(SourceKind.DIRECTORY, f"/srv/sets/{name}")
        except InvalidValue:
            assert name in {".", ".."}
            continue
        names.append(name)
    for number, name in enumerate(dict.fromkeys(names)):
        (host.sets / name).mkdir(exist_ok=True)
        (host.sets / name).chmod(0o777)
        (host.sets / name / "canary").write_text(name)
        mount = dataset(mount_id=f"m{number}", location=f"/srv/sets/{name}")
        assert host.mount(mount) is None, name
        assert as_user(ADA, "cat", f"{mount.path}/canary").stdout == name
        assert "Read-only" in as_user(ADA, "touch", f"{mount.path}/new").stderr
        assert host.unmount(mount.mount_id) is None
    assert seen(directory) == before
    with running_service() as endpoint:
        write_keys(endpoint)
        for prefix in _ODD_PREFIXES:
            client_of(endpoint).put_object(
                Bucket="models", Key=f"{prefix}/one", Body=prefix.encode()
            )
            mount = dataset(kind="S3", location=f"s3://models/{prefix}", endpoint=endpoint)
            assert host.mount(mount) is None, prefix
            assert as_user(ADA, "cat", f"{mount.path}/one").stdout == prefix
            assert host.unmount("m1") is None
    assert seen(directory) == before
    assert not _CANARY.exists()


def test_hostile_ones_are_refused_before_anything_begins(directory: StateDirectory) -> None:
    """Whatever the control plane sends, or whoever has taken it over."""
    host = Host(directory)
    before = traces(directory)
    good = msgspec.to_builtins(dataset())
    policy = PolicyFile().read()
    handlers = {DATASET_MOUNT.name: host.mounter}
    tried = 0
    for field, befores in {
        "path": ("", "/data/", "/mnt/a/"),
        "location": ("", "/srv/sets/"),
        "mount_id": ("",),
        "account": ("", "rg-"),
        "endpoint": ("", "https://", "https://a:"),
        "kind": ("",),
    }.items():
        for text in _HOSTILE:
            for beginning in befores:
                sent = good | {field: beginning + text}
                if field == "endpoint":
                    sent |= {"kind": "S3", "location": "s3://models"}
                allowed = beginning == "/srv/sets/" and text in {
                    *("-o", "--bind", "~root", "a b"),
                }
                if allowed:
                    continue
                command = Command(
                    "c1",
                    1,
                    DATASET_MOUNT.name,
                    msgspec.msgpack.encode(sent),
                    _DEADLINE,
                    "allocation-ada",
                    1,
                )
                outcome = refusal(command, handlers, policy)
                assert outcome is not None, sent
                assert outcome.state is EventState.REFUSED
                assert outcome.error_code == "INVALID_ARGUMENTS", sent
                tried += 1
    assert tried > 300
    assert traces(directory) == before
    assert not _CANARY.exists()
