"""The host's own sshd says where it listens, by which keys it is known, and whom it lets in."""

import socket
import subprocess
from pathlib import Path

from remotegpu_agent.ssh.listening import listening_ports
from remotegpu_agent.ssh.server import SshServerReader
from remotegpu_protocol.addresses import ANY_IPV4
from remotegpu_protocol.inventory import SshListener
from tests.agent.accounts.namespace import run_on_a_host


def test_sign_ins_as_sshd_decides_them(tmp_path: Path) -> None:
    run_on_a_host(Path(__file__).parent / "on_a_host.py", tmp_path)


def test_a_server_that_never_ran_has_the_usual(tmp_path: Path) -> None:
    """Its directory in /run is made when it starts, and until then it says nothing."""
    key = tmp_path / "ssh_host_ed25519_key"
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", key], check=True)
    (tmp_path / "ssh_host_rsa_key.pub").write_text("ssh-rsa !!!\n")
    (tmp_path / "ssh_host_ecdsa_key.pub").write_bytes(b"\xff")
    server = SshServerReader(configuration=tmp_path, listening=lambda: frozenset({22})).read()
    assert server.port == 22
    assert server.listeners == [SshListener(ANY_IPV4, 22), SshListener("::", 22)]
    assert [key.algorithm for key in server.host_keys] == ["ssh-ed25519"]


def test_no_server(tmp_path: Path) -> None:
    without = tmp_path / "sshd"
    absent = SshServerReader(without, tmp_path, listening=frozenset, accounts=tuple)
    assert "listens on TCP port 22" in str(absent.read(login_shell="/bin/sh").refusal)
    # Another SSH server than OpenSSH's cannot be asked.
    other = SshServerReader(
        without, tmp_path, listening=lambda: frozenset({22}), accounts=tuple, no_login=()
    )
    assert other.read(login_shell="/bin/sh").refusal is None


def test_ports_that_the_kernel_knows() -> None:
    with socket.create_server(("127.0.0.1", 0)) as four:
        port = four.getsockname()[1]
        found = listening_ports()
        assert found is not None
        assert port in found
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as six:
            found = listening_ports()
            assert found is not None
            assert six.getsockname()[1] in found
            with socket.create_connection(("127.0.0.1", port)) as connected:
                found = listening_ports()
                assert found is not None
                assert connected.getsockname()[1] not in found
    assert port not in (listening_ports() or ())
