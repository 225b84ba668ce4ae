import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotegpu_core.bus.samples import Sample, unpack_sample
from tests.core.hosts import sample


def test_there_and_back() -> None:
    packed = sample(7, 1234, utilization=50.0).pack()
    found = unpack_sample(packed)
    assert found is not None
    assert (found.epoch, found.sampled_at) == (7, 1234)
    assert found.metrics.gpus[0].utilization == 50.0
    # The agent's own bytes, untouched.
    assert packed.endswith(found.message)


@pytest.mark.parametrize("data", [None, b"", b"short", bytes(16), bytes(16) + b"\xc1", b"x" * 100])
def test_what_cannot_be_read_is_nothing(data: bytes | None) -> None:
    assert unpack_sample(data) is None


@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    found = unpack_sample(data)
    assert found is None or isinstance(found, Sample)


def test_every_shortened_sample_is_nothing() -> None:
    packed = sample().pack()
    assert all(unpack_sample(packed[:length]) is None for length in range(len(packed)))
