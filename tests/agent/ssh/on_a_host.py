"""Run in a mount namespace of its own: what the agent says of sign-ins, and what sshd does."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from remotegpu_agent.accounts.accounts import Accounts
from remotegpu_agent.ssh.accounts import made_accounts
from remotegpu_agent.ssh.configuration import Connection, ask
from remotegpu_agent.ssh.server import SshServerReader
from remotegpu_agent.ssh.sign_in import refusal
from remotegpu_protocol.addresses import ANY_IPV4, ANY_IPV6
from remotegpu_protocol.inventory import AccountSignIn, HostKey, SshListener, SshServer
from tests.agent.accounts.on_a_host import NAME, PORT, Client, make_key, run

SSHD = Path("/usr/sbin/sshd")
OTHER = "rg-zzzzzzzzzzzz"
SHELL = "/bin/sh"
#: Lines of sshd's configuration, and a part of the reason; None: the account signs in.
CASES = [
    ("PubkeyAuthentication yes", None),
    ("PubkeyAuthentication no", "PubkeyAuthentication is no"),
    ("AllowUsers alice bob@*", r"AllowUsers names none of these accounts \(alice bob@\*\)"),
    ("AllowUsers alice rg-*", None),
    ("AllowUsers rg-????????????@127.0.0.0/8", None),
    ("DenyUsers alice r*", r"DenyUsers r\* keeps these accounts out"),
    ("DenyUsers rg-*@192.0.2.0/24", None),
    ("DenyUsers rg-*@*", "DenyUsers"),
    ("AllowGroups sudo ssh-users", r"\(sudo ssh-users\): add rg-\* to it"),
    ("AllowGroups rg-*", None),
    ("DenyGroups *", "DenyGroups"),
    ("AuthorizedKeysFile /etc/keys/%u .ssh/keys", "does not read /home/rg-abcdefgh2345/.ssh"),
    ("AuthorizedKeysFile none", "AuthorizedKeysFile is none"),
    ("AuthorizedKeysFile /none %h/.ssh/authorized_keys", None),
    ("AuthenticationMethods publickey,keyboard-interactive", "AuthenticationMethods"),
    ("AuthenticationMethods publickey,password publickey", None),
    ("ForceCommand internal-sftp", "ForceCommand is internal-sftp"),
    ("ChrootDirectory /var", "ChrootDirectory"),
    ("RequiredRSASize 3072", None),
]


def make_configuration(folder: Path) -> Path:
    """One server with an address for each case, whose `Match` block has its lines."""
    lines = [
        f"HostKey {folder}/host",
        "UsePAM no",
        "PidFile none",
        f"Port {PORT}",
        "PasswordAuthentication yes",
    ]
    for number, (case, _) in enumerate(CASES, start=1):
        lines += [f"Match LocalAddress 127.0.0.{number}", f"  {case}"]
    file = folder / "cases" / "sshd_config"
    file.parent.mkdir()
    file.write_text("\n".join([*lines, ""]))
    return file


def the_same_as_sshd(folder: Path) -> None:
    Accounts(range(30_000, 30_010), SHELL).ensure(NAME, [make_key(folder, "user")])
    (account,) = made_accounts()
    file = make_configuration(folder)
    places = [f"127.0.0.{number}" for number in range(1, len(CASES) + 1)]
    said = [ask(SSHD, file, Connection(NAME, place, place, PORT)) for place in places]
    log = folder / "log"
    with (
        subprocess.Popen([SSHD, "-D", "-e", "-f", file], stderr=log.open("wb")) as server,
        ThreadPoolExecutor(4) as threads,
    ):
        clients = [Client(folder, PORT, place) for place in places]
        entered = list(threads.map(lambda client: client.enters("user"), clients))
        Accounts(range(30_000, 30_010), SHELL).ensure(NAME, [make_key(folder, "rsa", "rsa", 2048)])
        assert clients[0].enters("rsa")
        assert not clients[-1].enters("rsa")
        (short,) = made_accounts()
        server.terminate()
    assert refusal(said[0], short) is None
    assert "RequiredRSASize is 3072" in str(refusal(said[-1], short))
    both = [make_key(folder, "other"), *short.keys]
    Accounts(range(30_000, 30_010), SHELL).ensure(NAME, both)
    assert refusal(said[-1], made_accounts()[0]) is None
    for (case, expected), enters, answer in zip(CASES, entered, said, strict=True):
        reason = refusal(answer, account)
        assert enters == (expected is None), (case, log.read_text())
        assert enters == (reason is None), (case, reason)
        assert expected is None or re.search(expected, str(reason)), reason
    run("/usr/sbin/usermod", "--shell", "/usr/sbin/nologin", NAME, check=True)
    (account,) = made_accounts()
    assert "login shell /usr/sbin/nologin lets nobody in" in str(refusal(said[0], account))
    run("/usr/sbin/usermod", "--shell", SHELL, NAME, check=True)


class Host:
    """A configuration that changes while one reader reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "ssh"
        (self.folder / "sshd_config.d").mkdir(parents=True)
        self.ports: frozenset[int] | None = None
        self._no_login = folder / "nologin"
        self._key = make_key(folder, "host-key")
        self._path = folder / "host-key"
        self._reader = SshServerReader(
            configuration=self.folder, listening=lambda: self.ports, no_login=[self._no_login]
        )

    def configure(self, main: str, included: str = "") -> None:
        """`included` is written into the file that is there, as an editor would."""
        text = f"Include {self.folder}/sshd_config.d/*.conf\nHostKey {self._path}\n{main}\n"
        (self.folder / "sshd_config").write_text(text)
        (self.folder / "sshd_config.d" / "site.conf").write_text(f"{included}\n")

    def close(self, *, closed: bool) -> None:
        if closed:
            self._no_login.write_text("Back at noon.\n")
        else:
            self._no_login.unlink()

    def read(self, login_shell: str | None = SHELL) -> SshServer:
        return self._reader.read("10.0.0.7", login_shell=login_shell)

    @property
    def key(self) -> HostKey:
        shown = run("ssh-keygen", "-lf", f"{self._path}.pub", check=True).stdout
        return HostKey("ssh-ed25519", shown.split()[1])


def what_is_told(folder: Path) -> None:
    host = Host(folder)
    host.configure("")
    found = host.read()
    assert {(one.address, one.port) for one in found.listeners} == {(ANY_IPV4, 22), (ANY_IPV6, 22)}
    assert found == SshServer(22, [host.key], found.listeners)
    host.configure("", "ListenAddress 0.0.0.0:2200\nListenAddress [2001:db8::7]")
    listeners = [SshListener(ANY_IPV4, 2200), SshListener("2001:db8::7", 22)]
    assert host.read() == SshServer(2200, [host.key], listeners)
    # What the kernel says counts: sshd was not restarted.
    host.ports = frozenset({22, 80})
    assert host.read() == SshServer(22, [host.key], listeners[1:])
    host.ports = frozenset({80})
    assert "Nothing listens on TCP port 2200, 22" in str(host.read().refusal)
    host.ports = None
    host.configure("ListenAddress 127.0.0.1\nListenAddress ::1")
    assert "loopback addresses only" in str(host.read().refusal)
    host.configure("Port twenty-two")
    assert re.search(r"does not accept its configuration \(.*line 3", str(host.read().refusal))
    # A change within an included file, and one that concerns one account.
    host.configure("", "AllowUsers alice")
    assert "AllowUsers names none" in str(host.read().refusal)
    host.configure("", f"AllowUsers alice {NAME}")
    found = host.read()
    assert "AllowUsers names none" in str(found.refusal)
    assert found.accounts == [AccountSignIn(NAME)]
    host.configure("", f"AllowUsers rg-*\nDenyUsers {NAME}")
    found = host.read()
    assert found.refusal is None
    assert [account.account for account in found.accounts] == [NAME]
    assert f"DenyUsers {NAME}" in str(found.accounts[0].refusal)
    # Accounts that were made are judged, also after the policy has no more made.
    found = host.read(login_shell=None)
    assert (found.refusal, len(found.accounts)) == (None, 1)
    # From the host's own network only, or from elsewhere only.
    own = "Match Address 10.0.0.0/8\nPubkeyAuthentication"
    host.configure(f"PubkeyAuthentication no\n{own} yes")
    assert host.read().refusal is None
    host.configure(f"PubkeyAuthentication yes\n{own} no")
    assert host.read().refusal is None
    host.close(closed=True)
    assert "nologin keeps every user but root out" in str(host.read().refusal)
    host.close(closed=False)
    assert host.read().refusal is None
    assert "login shell /bin/none" in str(host.read(login_shell="/bin/none").refusal)


def main(folder: Path) -> None:
    assert os.geteuid() == 0
    make_key(folder, "host")
    Path("/run/sshd").mkdir(mode=0o755)
    the_same_as_sshd(folder)
    what_is_told(folder)
    sys.stdout.write("all of it\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
