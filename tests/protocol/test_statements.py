from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotegpu_protocol.statements import connect_statement, enroll_statement

NONCES = st.binary(min_size=32, max_size=32)
VERSIONS = st.lists(st.integers(min_value=1, max_value=65_535), min_size=1, max_size=4)
CONNECTS = st.fixed_dictionaries(
    {
        "machine_id": st.text(min_size=1, max_size=8),
        "origin": st.text(max_size=8),
        "server_nonce": NONCES,
        "agent_nonce": NONCES,
        "versions": VERSIONS,
    }
)


def parts(statement: bytes) -> Iterator[bytes]:
    """Read a statement back by its lengths, as an independent reader would."""
    while statement:
        length = int.from_bytes(statement[:4], "big")
        assert len(statement) >= 4 + length
        yield statement[4 : 4 + length]
        statement = statement[4 + length :]


def test_a_connect_statement_byte_for_byte() -> None:
    statement = connect_statement(
        machine_id="m1",
        origin="https://a.b",
        server_nonce=b"S" * 32,
        agent_nonce=b"A" * 32,
        versions=[2, 1],
    )
    assert statement == (
        b"\0\0\0\x1aremotegpu agent connect v1"
        b"\0\0\0\x02m1"
        b"\0\0\0\x0bhttps://a.b"
        b"\0\0\0\x20" + b"S" * 32 + b"\0\0\0\x20" + b"A" * 32 + b"\0\0\0\x032,1"
    )


def test_an_enroll_statement_byte_for_byte() -> None:
    statement = enroll_statement(
        token="t1",
        public_key=b"P" * 32,
        origin="https://a.b",
        server_nonce=b"S" * 32,
        versions=[1],
    )
    assert statement == (
        b"\0\0\0\x19remotegpu agent enroll v1"
        b"\0\0\0\x02t1"
        b"\0\0\0\x20" + b"P" * 32 + b"\0\0\0\x0bhttps://a.b"
        b"\0\0\0\x20" + b"S" * 32 + b"\0\0\0\x011"
    )


@settings(max_examples=100, deadline=None)
@given(one=CONNECTS, other=CONNECTS)
def test_different_fields_give_different_bytes(
    one: dict[str, object], other: dict[str, object]
) -> None:
    assert (connect_statement(**one) == connect_statement(**other)) == (one == other)  # type: ignore[arg-type]  # drawn from a strategy, whose values have no types of their own


@settings(max_examples=50, deadline=None)
@given(machine_id=st.text(max_size=20), origin=st.text(max_size=20), versions=VERSIONS)
def test_a_statement_reads_back(machine_id: str, origin: str, versions: list[int]) -> None:
    statement = connect_statement(
        machine_id=machine_id,
        origin=origin,
        server_nonce=b"S" * 32,
        agent_nonce=b"A" * 32,
        versions=versions,
    )
    assert list(parts(statement)) == [
        b"remotegpu agent connect v1",
        machine_id.encode(),
        origin.encode(),
        b"S" * 32,
        b"A" * 32,
        ",".join(map(str, versions)).encode(),
    ]


@pytest.mark.parametrize(
    ("left", "right"), [(("ab", "c"), ("a", "bc")), (("", "abc"), ("abc", ""))]
)
def test_moving_bytes_between_fields_changes_the_statement(
    left: tuple[str, str], right: tuple[str, str]
) -> None:
    def statement(machine_id: str, origin: str) -> bytes:
        return connect_statement(
            machine_id=machine_id,
            origin=origin,
            server_nonce=b"S" * 32,
            agent_nonce=b"A" * 32,
            versions=[1],
        )

    assert statement(*left) != statement(*right)
