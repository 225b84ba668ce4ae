"""Run in a mount namespace of its own: accounts on a host, with its own useradd, ssh and sshd.

/etc is a copy, /home and /run are empty: what is done here is gone with the namespace.
"""

import contextlib
import os
import pwd
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from remotegpu_agent.accounts.accounts import Accounts
from remotegpu_agent.accounts.ids import IdLedger, Leftovers
from remotegpu_agent.accounts.subordinate import (
    SUBGID,
    read_ranges,
    remove_owner,
    subordinate_ids,
)
from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_agent.reclaim.leftovers import leftovers
from remotegpu_agent.state_directory import StateDirectory

NAME = "rg-abcdefgh2345"
CANARY = Path("/run/canary")
PORT = 2222


def run(*command: str, **options: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload,no-any-return]  # options are subprocess's


def make_key(folder: Path, name: str, kind: str = "ed25519", bits: int = 256) -> str:
    options = ["-q", "-t", kind, "-b", str(bits), "-N", "", "-f", str(folder / name)]
    run("ssh-keygen", *options, check=True)
    return " ".join((folder / f"{name}.pub").read_text().split()[:2])


@contextlib.contextmanager
def sshd(folder: Path, port: int) -> Iterator[None]:
    make_key(folder, "host")
    Path("/run/sshd").mkdir(mode=0o755)
    options = ["UsePAM=no", "PidFile=none", "ListenAddress=127.0.0.1", "PasswordAuthentication=no"]
    server = subprocess.Popen(
        [
            *("/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-p", str(port)),
            *("-h", str(folder / "host")),
            *(part for option in options for part in ("-o", option)),
        ],
        stderr=(folder / "sshd.log").open("wb"),
    )
    try:
        yield
    finally:
        server.terminate()
        server.wait(10)


class Client:
    def __init__(self, folder: Path, port: int, address: str = "127.0.0.1") -> None:
        self._command = [
            *("ssh", "-F", "/dev/null", "-p", str(port), "-o", "BatchMode=yes"),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
            *("-o", "IdentitiesOnly=yes", "-o", "ConnectionAttempts=20"),
        ]
        self._folder = folder
        self._address = address

    def command(self, key: str, *words: str) -> list[str]:
        return [*self._command, "-i", str(self._folder / key), f"{NAME}@{self._address}", *words]

    def enters(self, key: str) -> bool:
        found = run(*self.command(key, "id", "-un"))
        return found.returncode == 0 and found.stdout.strip() == NAME


def refused(accounts: Accounts, name: str, *keys: str) -> str:
    try:
        accounts.ensure(name, keys)
    except CommandFailed as error:
        return error.code
    raise AssertionError(f"{name!r} {keys!r} was taken")


def signing_in(accounts: Accounts, folder: Path) -> None:
    first, second = make_key(folder, "first"), make_key(folder, "second")
    accounts.ensure(NAME, [first])
    accounts.ensure(NAME, [first])
    assert accounts.has(NAME, [first])
    found = pwd.getpwnam(NAME)
    assert 30_000 <= found.pw_uid < 30_010
    home, ssh = Path(found.pw_dir), Path(found.pw_dir) / ".ssh"
    for path, mode in ((home, 0o700), (ssh, 0o700), (ssh / "authorized_keys", 0o600)):
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (found.pw_uid, found.pw_gid), path
        assert status.st_mode & 0o777 == mode, path
    client = Client(folder, PORT)
    with sshd(folder, PORT):
        deadline = time.monotonic() + 20
        while not client.enters("first"):
            assert time.monotonic() < deadline, (folder / "sshd.log").read_text()
            time.sleep(0.2)
        assert not client.enters("second")
        # While somebody is signed in, who has let a key of their own in by two ways.
        shell = subprocess.Popen(
            client.command("first", "cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write("here\n")
        shell.stdin.flush()
        assert shell.stdout.readline() == "here\n"
        own = make_key(folder, "own")
        for name in ("authorized_keys", "authorized_keys2"):
            (ssh / name).write_text(own + "\n")
            os.chown(ssh / name, found.pw_uid, found.pw_gid)
        assert client.enters("own")
        accounts.replace_keys(NAME, [second])
        assert client.enters("second")
        assert not client.enters("first")
        assert not client.enters("own")
        shell.stdin.write("still here\n")
        shell.stdin.flush()
        assert shell.stdout.readline() == "still here\n"
        shell.stdin.close()
        shell.wait(20)
        accounts.replace_keys(NAME, [])
        assert not client.enters("second")


def links_are_not_followed(accounts: Accounts, folder: Path) -> None:
    key = make_key(folder, "linked")
    home = Path(pwd.getpwnam(NAME).pw_dir)
    ssh = home / ".ssh"
    outside = folder / "outside"
    outside.mkdir()
    (outside / "authorized_keys").write_text("root's\n")
    ssh.rename(home / "away")
    ssh.symlink_to(outside)
    accounts.replace_keys(NAME, [key])
    assert not ssh.is_symlink()
    (ssh / "authorized_keys").unlink()
    (ssh / "authorized_keys").symlink_to(outside / "authorized_keys")
    accounts.replace_keys(NAME, [key])
    (ssh / "authorized_keys").unlink()
    (ssh / "authorized_keys" / "deep").mkdir(parents=True)
    (ssh / "authorized_keys2" / "deep").mkdir(parents=True)
    accounts.replace_keys(NAME, [key])
    assert accounts.has(NAME, [key])
    assert [path.name for path in outside.iterdir()] == ["authorized_keys"]
    assert (outside / "authorized_keys").read_text() == "root's\n"
    assert outside.stat().st_uid == 0


def what_is_not_made(accounts: Accounts, folder: Path) -> None:
    key = make_key(folder, "good")
    before = Path("/etc/passwd").read_text()
    for name in (
        *("root", "", "-h", "--help", "rg-", "rg-abcdefgh2345\n", "rg-abcdefgh234:", "../rg-x"),
        *(f"rg-$(touch {CANARY})", f"; touch {CANARY}", f"rg-`touch {CANARY}`", "rg-ABCDEFGH2345"),
    ):
        assert refused(accounts, name, key) == "INVALID_ACCOUNT", name
    for line in (
        *(f"{key} $(touch {CANARY})", f'command="touch {CANARY}" {key}', f"{key}\n{key}"),
        *("", "\n", f"{key}\r", f"no-pty {key}", f"ssh-rsa {key.split()[1]}"),
    ):
        assert refused(accounts, "rg-aaaaaaaaaaaa", line) == "INVALID_KEY", line
    Path("/home/rg-bbbbbbbbbbbb").symlink_to("/etc")
    assert refused(accounts, "rg-bbbbbbbbbbbb", key) == "HOME_TAKEN"
    assert Path("/etc/passwd").read_text() == before
    run("/usr/sbin/useradd", "rg-cccccccccccc", check=True)
    assert refused(accounts, "rg-cccccccccccc", key) == "ACCOUNT_TAKEN"
    # One that a useradd made which was killed before it came to the home, or gave it away.
    accounts.ensure("rg-dddddddddddd", [])
    home = Path("/home/rg-dddddddddddd")
    run("rm", "-r", str(home), check=True)
    assert not accounts.has("rg-dddddddddddd", [])
    accounts.ensure("rg-dddddddddddd", [key])
    assert accounts.has("rg-dddddddddddd", [key])
    run("rm", "-r", str(home), check=True)
    home.mkdir(mode=0o755)
    accounts.ensure("rg-dddddddddddd", [key])
    assert accounts.has("rg-dddddddddddd", [key])
    assert (home.stat().st_uid, home.stat().st_mode & 0o777) == (home.stat().st_gid, 0o700)
    assert home.stat().st_uid >= 30_000
    # Or before it came to the tables behind the first.
    for table in ("shadow", "group"):
        path = Path("/etc") / table
        kept = [line for line in path.read_text().splitlines() if "rg-dddddddddddd" not in line]
        path.write_text("\n".join([*kept, ""]))
        run("rm", "-r", str(home), check=True)
        accounts.ensure("rg-dddddddddddd", [key])
        assert accounts.has("rg-dddddddddddd", [key])
        assert "\nrg-dddddddddddd:" in path.read_text()
    assert not CANARY.exists()


def two_at_once(accounts: Accounts, folder: Path) -> None:
    """An agent that was killed leaves its useradd behind; the next one does not wait for it."""
    key = make_key(folder, "twice")
    with ThreadPoolExecutor() as threads:
        for number in range(3):
            name = f"rg-eeeeeeeeee{'abc'[number]}a"
            for done in [threads.submit(accounts.ensure, name, [key]) for _ in range(2)]:
                done.result(60)
            assert accounts.has(name, [key])


def user_ids(folder: Path) -> None:
    """Who comes next gets another user id than who was here before."""
    key = make_key(folder, "numbers")
    many = Accounts(range(31_000, 32_000), "/bin/sh")
    seen = set()
    for name in ("rg-eeeeeeeeeeee", "rg-ffffffffffff", "rg-gggggggggggg"):
        many.ensure(name, [key])
        found = pwd.getpwnam(name)
        assert (found.pw_uid, found.pw_uid in range(31_000, 32_000)) == (found.pw_gid, True)
        seen.add(found.pw_uid)
        run("/usr/sbin/userdel", "--remove", name, check=True)
    assert len(seen) == 3
    # Of a range that is full, the last one and none.
    few = Accounts(range(33_000, 33_002), "/bin/sh")
    run("/usr/sbin/groupadd", "--gid", "33000", "taken", check=True)
    few.ensure("rg-hhhhhhhhhhhh", [key])
    assert pwd.getpwnam("rg-hhhhhhhhhhhh").pw_uid == 33_001
    assert refused(few, "rg-iiiiiiiiiiii", key) == "NO_FREE_USER_ID"
    # What a user may write behind the comment makes it no other account.
    run("/usr/sbin/usermod", "--comment", "RemoteGPU,room,1,2", "rg-hhhhhhhhhhhh", check=True)
    assert few.has("rg-hhhhhhhhhhhh", [key])


def without_subordinate_ids(folder: Path) -> None:
    """Ranges that are used up keep nobody out: of user ids, of group ids, of both."""
    key = make_key(folder, "ranges")
    many = Accounts(range(34_000, 35_000), "/bin/sh")
    tables = [Path("/etc/subuid"), Path("/etc/subgid")]
    kept = [path.read_text() for path in tables]
    for number, used_up in enumerate((tables[:1], tables[1:], tables)):
        for path, text in zip(tables, kept, strict=True):
            everything = "somebody:100000:600000000\n"
            path.write_text(text + (everything if path in used_up else ""))
        name = f"rg-jjjjjjjjjjj{'abc'[number]}"
        many.ensure(name, [key])
        assert many.has(name, [key])
        assert all(f"{name}:" not in path.read_text() for path in used_up)
    # Where there are some, an account gets some.
    for path, text in zip(tables, kept, strict=True):
        path.write_text(text)
    many.ensure("rg-kkkkkkkkkkkk", [key])
    assert all("rg-kkkkkkkkkkkk:" in path.read_text() for path in tables)


def ids_take_turns(folder: Path) -> None:
    """What an account had is given out again after everything else, and never while something of it is
    found."""
    directory = StateDirectory(folder / "state")
    directory.create()
    uids = range(36_000, 36_004)

    def make(found: Leftovers | None = leftovers) -> tuple[int, range]:
        # Anew each time, as after a start of the agent.
        Accounts(uids, "/bin/sh", IdLedger(directory, found)).ensure("rg-mmmmmmmmmmmm", [])
        uid = pwd.getpwnam("rg-mmmmmmmmmmmm").pw_uid
        ((first, count),) = subordinate_ids("rg-mmmmmmmmmmmm", uid)
        assert [(one.first, one.count) for one in read_ranges(SUBGID)][-1] == (first, count)
        run("/usr/sbin/userdel", "--remove", "rg-mmmmmmmmmmmm", check=True)
        return uid, range(first, first + count)

    given = [make(None) for _ in range(5)]
    assert sorted(uid for uid, _ in given[:4]) == list(uids)
    assert given[4][0] == given[0][0]
    starts = [further.start for _, further in given]
    assert starts == sorted(set(starts))

    # A process of the next one, a file of the next but one, further ids by the number of the third.
    second, third, fourth = (given[number][0] for number in (1, 2, 3))
    left = Path("/run/left")
    left.touch()
    os.chown(left, third, third)
    table = Path("/etc/subuid")
    with table.open("a") as file:
        file.write(f"{fourth}:900000000:65536\n")
    process = subprocess.Popen(["/bin/sleep", "60"], user=second, cwd="/")
    try:
        assert make()[0] == given[0][0]
        remove_owner(table, str(fourth))
        assert str(fourth) not in {one.owner for one in read_ranges(table)}
        # Of further ids, too.
        left.unlink()
        uid, further = make()
        assert uid == third
        left.touch()
        os.chown(left, further.stop + 5, 0)
        assert make()[1].start > further.stop
    finally:
        process.kill()
        process.wait()
        left.unlink()


def main(folder: Path) -> None:
    accounts = Accounts(range(30_000, 30_010), "/bin/sh")
    signing_in(accounts, folder)
    links_are_not_followed(accounts, folder)
    what_is_not_made(accounts, folder)
    user_ids(folder)
    ids_take_turns(folder)
    two_at_once(accounts, folder)
    without_subordinate_ids(folder)
    sys.stdout.write("all of it\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
