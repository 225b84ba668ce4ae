import pytest
from msgspec.structs import replace

from remotegpu_protocol.errors import AuthenticationFailed
from remotegpu_protocol.keys import verify_enroll, verify_hello
from remotegpu_protocol.messages import Challenge, Enroll, Hello
from tests.protocol.instruments import NONCE, HostKey, enroll_opening, hello_opening

CHALLENGE = Challenge(nonce=NONCE, versions=[1], server_time=1)
OTHER_NONCE = bytes(32)


def a_hello() -> Hello:
    hello = hello_opening()(CHALLENGE, 5)
    assert isinstance(hello, Hello)
    return hello


def an_enroll() -> Enroll:
    enroll = enroll_opening()(CHALLENGE, 5)
    assert isinstance(enroll, Enroll)
    return enroll


def test_a_good_hello_holds() -> None:
    verify_hello(a_hello(), public_key=HostKey().public_key, nonce=NONCE)


def test_a_good_enrolment_holds() -> None:
    verify_enroll(an_enroll(), nonce=NONCE)


@pytest.mark.parametrize(
    "change",
    [
        {"machine_id": "another"},
        {"origin": "https://evil.example"},
        {"nonce": OTHER_NONCE},
        {"versions": [1, 2]},
        {"versions": [2]},
        {"signature": bytes(64)},
        {"signature": b"\xff" * 64},
    ],
)
def test_a_hello_that_was_changed_does_not_hold(change: dict[str, object]) -> None:
    with pytest.raises(AuthenticationFailed, match="enrol it again"):
        verify_hello(replace(a_hello(), **change), public_key=HostKey().public_key, nonce=NONCE)


@pytest.mark.parametrize(
    "change",
    [
        {"token": "another"},
        {"origin": "https://evil.example"},
        {"public_key": HostKey(2).public_key},
        {"public_key": b"\xff" * 32},
        {"versions": [2]},
        {"signature": bytes(64)},
    ],
)
def test_an_enrolment_that_was_changed_does_not_hold(change: dict[str, object]) -> None:
    with pytest.raises(AuthenticationFailed):
        verify_enroll(replace(an_enroll(), **change), nonce=NONCE)


def test_another_challenge_makes_both_worthless() -> None:
    with pytest.raises(AuthenticationFailed):
        verify_hello(a_hello(), public_key=HostKey().public_key, nonce=OTHER_NONCE)
    with pytest.raises(AuthenticationFailed):
        verify_enroll(an_enroll(), nonce=OTHER_NONCE)


@pytest.mark.parametrize("key", [HostKey(2).public_key, bytes(31), b"", b"\xff" * 32])
def test_another_key_does_not_verify(key: bytes) -> None:
    with pytest.raises(AuthenticationFailed):
        verify_hello(a_hello(), public_key=key, nonce=NONCE)


def test_nonces_put_in_each_others_place_do_not_hold() -> None:
    hello = a_hello()
    with pytest.raises(AuthenticationFailed):
        verify_hello(
            replace(hello, nonce=NONCE), public_key=HostKey().public_key, nonce=hello.nonce
        )


def test_what_is_not_signed_is_not_identity() -> None:
    """The rest of a hello is protected by TLS alone, and may change without a new signature."""
    changed = replace(a_hello(), boot_id="another", clock=9, agent_version="2")
    verify_hello(changed, public_key=HostKey().public_key, nonce=NONCE)
