"""The policy file: what it allows, and that anything doubtful about it allows nothing."""

import os
from pathlib import Path

import pytest

from remotegpu_agent.commands.policy import LocalPolicy, PolicyFile, SimulatedPolicy
from remotegpu_protocol.inventory import Policy
from remotegpu_protocol.kinds import KINDS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path / "policy.toml"


def read(path: Path, content: str | bytes, mode: int = 0o644) -> LocalPolicy:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return PolicyFile(path, owner=os.geteuid()).read()


def refused(policy: LocalPolicy) -> str:
    """Nothing is allowed, and the inventory says why."""
    assert policy.commands == frozenset()
    assert policy.message is not None
    assert policy.as_reported() == Policy([], message=policy.message)
    return policy.message


def test_no_file_is_monitoring_only(path: Path) -> None:
    policy = PolicyFile(path, owner=os.geteuid()).read()
    assert policy == LocalPolicy(source=str(path))
    assert policy.as_reported() is None
    assert PolicyFile(path.parent / "no" / "such.toml", owner=os.geteuid()).read().message is None


def test_all_that_a_file_may_say(path: Path) -> None:
    policy = read(
        path,
        """
        commands = ["allocation.start", "allocation.end"]
        mount_roots = ["/data", "/srv/scratch/"]
        accounts = ["ada", "rgpu-01"]
        ports = [20000, [30000, 30100]]
        account_uids = [50000, 50009]
        account_shell = "/bin/sh"
        """,
    )
    assert policy.commands == {"allocation.start", "allocation.end"}
    assert [str(root) for root in policy.mount_roots] == ["/data", "/srv/scratch"]
    assert policy.accounts == {"ada", "rgpu-01"}
    assert policy.ports == (range(20000, 20001), range(30000, 30101))
    assert policy.account_uids == range(50000, 50010)
    assert policy.account_shell == "/bin/sh"
    assert policy.as_reported() == Policy(["allocation.end", "allocation.start"])


def test_mounting_is_told_only_where_something_would_unmount(path: Path) -> None:
    commands = 'commands = ["account.keys", "dataset.mount", "dataset.unmount"]\n'
    for cleaning, told in (("", []), ("cleaning = true", ["dataset.mount"])):
        reported = read(path, commands + cleaning).as_reported()
        assert reported == Policy(sorted(["account.keys", "dataset.unmount", *told]))


def test_an_empty_file_allows_nothing(path: Path) -> None:
    assert read(path, "# later\n").as_reported() is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("commands = [", "end of document"),
        ('commands = "allocation.start"', "commands"),
        ('commands = ["allocation.start", "alocation.end"]', "alocation.end"),
        ('commands = ["*"]', "allocation.start"),
        ('command = ["allocation.start"]', "command"),
        ("commands = [1]", "commands"),
        ('mount_roots = ["data"]', "'data'"),
        ('mount_roots = ["/"]', "'/'"),
        ('mount_roots = ["/data/../etc"]', "'..'"),
        ('mount_roots = ["/da\\u0000ta"]', "mount_roots"),
        ('accounts = ["root"]', "root"),
        ('accounts = ["ada; rm"]', "accounts"),
        ("ports = [22]", "ports"),
        ("ports = [[30000, 20000]]", "30000"),
        ("ports = [[20000, 30000, 40000]]", "ports"),
        ("ports = [70000]", "ports"),
        (b"commands = ['\xff']", "utf-8"),
        (b"\0", "line 1"),
        ("#" * 70_000, "65536 bytes"),
        ('commands = ["allocation.start"]\n' * 2, "line 2"),
    ],
)
def test_a_file_that_is_not_understood_as_a_whole_allows_nothing(
    path: Path, content: str | bytes, says: str
) -> None:
    message = refused(read(path, content))
    assert says in message
    assert str(path) in message
    assert message.isprintable()
    assert len(message) <= 2000


GOOD = 'commands = ["allocation.start"]'


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o777])
def test_a_file_that_others_can_write(path: Path, mode: int) -> None:
    message = refused(read(path, GOOD, mode))
    assert f"mode {mode:o}" in message
    assert "chmod 644" in message
    path.chmod(0o644)
    assert PolicyFile(path, owner=os.geteuid()).read().commands == {"allocation.start"}


def test_a_file_of_somebody_else(path: Path) -> None:
    read(path, GOOD)
    message = refused(PolicyFile(path, owner=os.geteuid() + 1).read())
    assert f"belongs to user {os.geteuid()}, not to {os.geteuid() + 1}" in message
    assert "chown root:root" in message


def test_a_directory_in_which_others_can_put_another_file(path: Path) -> None:
    read(path, GOOD)
    path.parent.chmod(0o777)
    assert "the directory of it can be written by others" in refused(
        PolicyFile(path, owner=os.geteuid()).read()
    )


def test_the_owner_is_root_unless_said_otherwise(path: Path) -> None:
    path.write_text(GOOD)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    assert ", not to 0: chown root:root" in refused(PolicyFile(path).read())


def test_what_is_no_file(path: Path) -> None:
    os.mkfifo(path, 0o644)
    assert "not a file" in refused(PolicyFile(path, owner=os.geteuid()).read())
    path.unlink()
    path.mkdir(0o755)
    assert refused(PolicyFile(path, owner=os.geteuid()).read())


def test_a_link_counts_as_what_it_leads_to(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.toml"
    target.write_text(GOOD)
    target.chmod(0o666)
    path.symlink_to(target)
    assert "mode 666" in refused(PolicyFile(path, owner=os.geteuid()).read())


def test_a_simulated_host_may_be_asked_for_anything() -> None:
    policy = SimulatedPolicy().read()
    assert policy.commands == set(KINDS)
    assert policy.as_reported() == Policy(sorted(KINDS), simulated=True)
