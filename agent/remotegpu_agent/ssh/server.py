"""What the inventory says of the host's SSH server."""

import base64
import binascii
import hashlib
import ipaddress
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from msgspec import structs

from remotegpu_agent.ssh.accounts import expected_account, made_accounts
from remotegpu_agent.ssh.configuration import Configuration, Connection, NoAnswer, ask
from remotegpu_agent.ssh.listening import listening_ports
from remotegpu_agent.ssh.sign_in import Account, refusal
from remotegpu_protocol.addresses import ANY_IPV4, ANY_IPV6
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.inventory import AccountSignIn, HostKey, SshListener, SshServer
from remotegpu_protocol.limits import MAX_HOST_KEYS, MAX_SSH_ACCOUNTS, MAX_SSH_LISTENERS

_PLACES: Final = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/run/current-system/sw/bin"
_CONFIGURATION: Final = Path("/etc/ssh")
#: Where sshd's own keys are unless its configuration says otherwise, the best first.
_KEYS: Final = ("ssh_host_ed25519_key", "ssh_host_ecdsa_key", "ssh_host_rsa_key")
_PORT: Final = 22
#: Bytes of a file with a public key: RSA of 16384 bits and a comment.
_MAX_FILE: Final = 16 * 1024
#: Either keeps every user but root out (nologin(5)).
_NO_LOGIN: Final = (Path("/etc/nologin"), Path("/run/nologin"))
#: An address for documentation (RFC 5737): what sshd would tell a stranger from outside.
_OUTSIDE: Final = "192.0.2.1"


class SshServerReader:
    """Asks sshd anew each time: it takes milliseconds, and any of many files may have changed."""

    def __init__(
        self,
        sshd: Path | None = None,
        configuration: Path = _CONFIGURATION,
        *,
        listening: Callable[[], frozenset[int] | None] = listening_ports,
        accounts: Callable[[], Sequence[Account]] = made_accounts,
        no_login: Sequence[Path] = _NO_LOGIN,
    ) -> None:
        found = shutil.which("sshd", path=_PLACES)
        self._sshd = sshd or (None if found is None else Path(found))
        self._configuration = configuration
        self._listening = listening
        self._accounts = accounts
        self._no_login = no_login

    def read(self, own_address: str | None = None, *, login_shell: str | None = None) -> SshServer:
        """Where it listens, its keys, and which accounts of allocations it does not let in.

        `own_address`: by which the host reaches others. `login_shell`: of the accounts that allocations
        get here; None where they get none.
        """
        said, trouble = self._ask(None)
        configured = said.listeners or [(ANY_IPV4, _PORT), (ANY_IPV6, _PORT)]
        ports = self._listening()
        listeners = [one for one in configured if ports is None or one[1] in ports]
        server = SshServer(
            port=(listeners or configured)[0][1],
            host_keys=self._host_keys(said),
            listeners=[SshListener(*one) for one in listeners or configured][:MAX_SSH_LISTENERS],
        )
        accounts = self._accounts()[:MAX_SSH_ACCOUNTS]
        if login_shell is None and not accounts:
            return server
        for_all = trouble or self._refusal_for_all(configured, listeners)
        if for_all is not None:
            return structs.replace(server, refusal=clean_text(for_all, 2000))

        def refused(account: Account) -> str | None:
            return self._refusal(account, own_address, server.port)

        general = None if login_shell is None else refused(expected_account(login_shell))
        differing = [
            AccountSignIn(account.name, own)
            for account in accounts
            if (own := refused(account)) != general
        ]
        return structs.replace(server, refusal=general, accounts=differing)

    def _ask(self, connection: Connection | None) -> tuple[Configuration, str | None]:
        """What sshd says, and why no account could sign in where it says nothing."""
        if self._sshd is None or not os.access(self._sshd, os.X_OK):
            return Configuration({}), None
        try:
            return ask(self._sshd, self._configuration / "sshd_config", connection), None
        except NoAnswer as error:
            if os.geteuid() != 0 or "privilege separation directory" in str(error):
                # Only root may read the keys; the directory is made when sshd first starts.
                return Configuration({}), None
            return Configuration({}), (
                f"sshd does not accept its configuration ({error}), so it may not start again. "
                "Correct what `sshd -t` complains about and reload sshd."
            )

    def _refusal_for_all(
        self, configured: Sequence[tuple[str, int]], listeners: Sequence[tuple[str, int]]
    ) -> str | None:
        if not listeners:
            ports = ", ".join(str(port) for port in dict.fromkeys(port for _, port in configured))
            if self._sshd is None:
                return (
                    f"This host has no sshd, and nothing listens on port {ports}. Install and start "
                    "an SSH server."
                )
            return (
                f"Nothing listens on TCP port {ports}, where sshd is configured to. Start sshd, or "
                "restart it so that it takes its configuration over."
            )
        if all(ipaddress.ip_address(address).is_loopback for address, _ in listeners):
            return (
                "sshd listens on loopback addresses only. Set ListenAddress to an address that "
                "users reach and restart sshd."
            )
        closed = next((path for path in self._no_login if path.exists()), None)
        return (
            None
            if closed is None
            else f"{closed} keeps every user but root out. Remove it when the host may be used."
        )

    def _refusal(self, account: Account, own_address: str | None, port: int) -> str | None:
        """None where it can sign in from outside or, at least, from the host's own network."""
        reasons = []
        for source in dict.fromkeys([_OUTSIDE, own_address or _OUTSIDE]):
            to = own_address or "127.0.0.1"
            said, _ = self._ask(Connection(account.name, source, to, port))
            found = refusal(said, account)
            if found is None:
                return None
            reasons.append(clean_text(found, 2000))
        return reasons[0]

    def _host_keys(self, said: Configuration) -> list[HostKey]:
        paths = said.all("hostkey") or [str(self._configuration / name) for name in _KEYS]
        keys = [key for path in paths if (key := _host_key(Path(f"{path}.pub"))) is not None]
        return keys[:MAX_HOST_KEYS]


def _host_key(path: Path) -> HostKey | None:
    try:
        with path.open("rb") as file:
            words = file.read(_MAX_FILE).split()
        blob = base64.b64decode(words[1], validate=True)
    except (OSError, IndexError, binascii.Error):
        return None
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return HostKey(clean_text(words[0], 64) or "unknown", f"SHA256:{digest}")
