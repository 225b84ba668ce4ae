from remotegpu_protocol.limits import SUPPORTED_VERSIONS
from remotegpu_protocol.messages import Challenge, Enroll, Hello
from tests.protocol.instruments import (
    MACHINE,
    NONCE,
    ORIGIN,
    HostKey,
    enroll_opening,
    hello_opening,
)

CHALLENGE = Challenge(nonce=NONCE, versions=[1], server_time=1)


def test_an_enrolled_host_says_hello() -> None:
    hello = hello_opening()(CHALLENGE, 5)

    assert isinstance(hello, Hello)
    assert (hello.machine_id, hello.origin, hello.clock) == (MACHINE, ORIGIN, 5)
    assert hello.versions == list(SUPPORTED_VERSIONS)
    assert hello.journal_id is None
    assert hello.last_sequence is None


def test_no_nonce_is_used_twice() -> None:
    opening = hello_opening()
    first, second = opening(CHALLENGE, 5), opening(CHALLENGE, 5)

    assert isinstance(first, Hello)
    assert isinstance(second, Hello)
    assert first.nonce != second.nonce
    assert first.signature != second.signature


def test_a_new_host_redeems_its_token() -> None:
    enroll = enroll_opening()(CHALLENGE, 5)

    assert isinstance(enroll, Enroll)
    assert enroll.public_key == HostKey().public_key
    assert enroll.token == "one-time-token"
    assert enroll.hardware_uuid is None
