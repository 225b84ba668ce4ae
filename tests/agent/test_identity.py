"""Keys and identities in a real state directory."""

import stat

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from remotegpu_agent.errors import NotEnrolled, StateDirectoryError
from remotegpu_agent.identity import (
    HostKey,
    Identity,
    enrolling_key,
    load_identity,
    store_identity,
)
from remotegpu_agent.state_directory import StateDirectory


def an_identity(key: HostKey) -> Identity:
    return Identity(
        key=key,
        machine_id="machine-1",
        machine_name="node-1",
        origin="https://gpu.example.org",
        ca_file="/etc/ca.pem",
    )


def test_a_signature_holds_for_what_was_signed_alone() -> None:
    key = HostKey.generate()
    public = Ed25519PublicKey.from_public_bytes(key.public_key)
    public.verify(key.sign(b"statement"), b"statement")
    with pytest.raises(InvalidSignature):
        public.verify(key.sign(b"statement"), b"another")


def test_a_key_does_not_show_its_secret() -> None:
    key = HostKey.generate()
    shown = f"{key} {key!r} {vars(key)}"
    assert key.secret().hex() not in shown
    assert repr(key.secret()) not in shown


def test_what_is_stored_is_what_is_loaded(directory: StateDirectory) -> None:
    identity = an_identity(HostKey.generate())
    store_identity(directory, identity)
    loaded = load_identity(directory)
    assert loaded.key.secret() == identity.key.secret()
    assert (loaded.machine_id, loaded.machine_name) == ("machine-1", "node-1")
    assert (loaded.origin, loaded.ca_file) == ("https://gpu.example.org", "/etc/ca.pem")
    assert stat.S_IMODE((directory.path / "identity.json").stat().st_mode) == 0o600


def test_without_an_identity_the_way_to_one_is_said(directory: StateDirectory) -> None:
    for missing in (directory, StateDirectory(directory.path / "nowhere")):
        with pytest.raises(NotEnrolled, match="remotegpu-agent enroll --server"):
            load_identity(missing)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"secret_key": "AAAA"}', b"\xff"])
def test_a_damaged_identity_is_said(directory: StateDirectory, content: bytes) -> None:
    directory.write("identity.json", content)
    with pytest.raises(StateDirectoryError, match="is damaged"):
        load_identity(directory)


def test_an_unanswered_enrolment_goes_on_with_its_key(directory: StateDirectory) -> None:
    first = enrolling_key(directory, enrolled=None)
    assert enrolling_key(directory, enrolled=None).public_key == first.public_key
    store_identity(directory, an_identity(first))
    assert enrolling_key(directory, enrolled=first).public_key != first.public_key


def test_a_key_in_use_is_never_enrolled_again(directory: StateDirectory) -> None:
    """As after a crash between storing the identity and forgetting the enrolment."""
    key = enrolling_key(directory, enrolled=None)
    assert enrolling_key(directory, enrolled=key).public_key != key.public_key
