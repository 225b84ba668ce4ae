from concurrent.futures import ThreadPoolExecutor

import pytest

from remotegpu_core import ids
from remotegpu_core.clock import now_ms
from remotegpu_core.ids import new_id


def test_the_order_of_ids_is_the_order_of_their_making() -> None:
    # Thousands within one millisecond, which alone would not order them.
    made = [new_id() for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert [str(one) for one in made] == sorted(str(one) for one in made)


def test_they_are_version_7_and_say_when(monkeypatch: pytest.MonkeyPatch) -> None:
    # A test whose clock was ahead may have been here: what it made is not undercut.
    monkeypatch.setattr(ids, "_last", 0)
    before = now_ms()
    one = new_id()
    assert (one.version, one.variant) == (7, "specified in RFC 4122")
    assert before <= one.int >> 80 <= now_ms() + 1


def test_a_clock_that_goes_back_changes_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_id()
    monkeypatch.setattr(ids, "now_ms", lambda: 1000)
    later = [new_id() for _ in range(10)]
    assert [first, *later] == sorted([first, *later])


def test_threads_never_make_the_same() -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: [new_id() for _ in range(500)], range(16)))
    flat = [one for part in made for one in part]
    assert len(set(flat)) == len(flat)


def test_neighbours_cannot_be_guessed() -> None:
    gaps = {second.int - first.int for first, second in ((new_id(), new_id()) for _ in range(1000))}
    assert len(gaps) == 1000
    assert min(gaps) >= 1
