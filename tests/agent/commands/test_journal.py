"""The journal by itself: what is written, in which order, and what is forgotten."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from remotegpu_agent.commands import journal as journals
from remotegpu_agent.commands.journal import KEEP_COMMANDS, Journal
from remotegpu_agent.commands.records import (
    CancelReceipt,
    Counts,
    Outcome,
    Progress,
    Receipt,
    RecordState,
)
from remotegpu_agent.errors import JournalError
from remotegpu_protocol.commands import Command, EventState

DONE = Outcome(EventState.SUCCEEDED, result=b"\x80")


def command(
    number: int = 1, *, allocation: str | None = "a1", generation: int = 1, deadline: int = 10_000
) -> Command:
    return Command(
        f"c{number}", number, "allocation.start", b"\x80", deadline, allocation, generation
    )


def take(journal: Journal, made: Command) -> Receipt:
    return journal.accept(made, end=None, at=5)


def told(journal: Journal, *, after: int = 0) -> list[tuple[int, str, str]]:
    return [
        (event.sequence, event.command_id, event.state.value)
        for event in journal.events(after=after, limit=1000)
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Journal:
    return Journal(path)


def test_the_life_of_a_command(path: Path, journal: Journal) -> None:
    assert take(journal, command()) is Receipt.TAKEN
    assert [record.state for record in journal.open_records()] == [RecordState.WAITING]
    assert journal.begin("c1", at=6)
    assert not journal.begin("c1", at=6)
    assert journal.counts() == Counts(waiting=0, begun=1, unacknowledged=2)
    assert journal.finish("c1", DONE, at=7)
    assert not journal.finish("c1", Outcome(EventState.FAILED), at=8)
    expected = [(1, "c1", "ACCEPTED"), (2, "c1", "RUNNING"), (3, "c1", "SUCCEEDED")]
    assert told(journal) == expected
    journal.close()

    again = Journal(path)
    assert again.journal_id == journal.journal_id
    assert (again.last_sequence, again.acknowledged) == (3, 0)
    assert told(again) == expected
    assert again.events(after=2, limit=1)[0].result == b"\x80"
    assert again.open_records() == []
    again.acknowledge(2)
    assert told(again) == expected[2:]
    # Nobody can acknowledge what was never made.
    again.acknowledge(1000)
    again.acknowledge(1)
    assert told(again) == []
    assert (again.last_sequence, again.acknowledged) == (3, 3)
    again.close()
    # What is forgotten leaves no gap and no number free.
    third = Journal(path)
    take(third, command(2))
    assert told(third) == [(4, "c2", "ACCEPTED")]


def test_records_come_back_as_they_were(path: Path, journal: Journal) -> None:
    take(journal, command(2))
    take(journal, command(1, allocation=None))
    take(journal, command(3))
    journal.begin("c2", at=6)
    assert journal.cancel("c2", at=7) is CancelReceipt.BEGUN
    journal.close()
    records = Journal(path).open_records()
    assert [(r.command, r.state, r.cancelled) for r in records] == [
        (command(1, allocation=None), RecordState.WAITING, False),
        (command(2), RecordState.BEGUN, True),
        (command(3), RecordState.WAITING, False),
    ]


def test_progress_that_nobody_read_is_replaced_and_other_is_not(journal: Journal) -> None:
    take(journal, command())
    journal.progress("c1", Progress("too early"), at=5)
    journal.begin("c1", at=6)
    for part in (0.1, 0.2, 0.3):
        journal.progress("c1", Progress("step", part), at=7)
    events = journal.events(after=0, limit=10)
    assert [(event.sequence, event.progress) for event in events] == [(1, None), (2, 0.3)]
    journal.progress("c1", Progress("step", 0.4), at=8)
    journal.progress("c1", Progress("step", 0.5), at=9)
    events = journal.events(after=0, limit=10)
    assert [(event.sequence, event.progress) for event in events] == [
        (1, None),
        (2, 0.3),
        (3, 0.5),
    ]
    journal.finish("c1", DONE, at=9)
    journal.progress("c1", Progress("too late"), at=10)
    assert told(journal)[-1] == (4, "c1", "SUCCEEDED")


def test_what_is_refused_leaves_its_allocation_alone(journal: Journal) -> None:
    refused = Outcome(EventState.REFUSED, error_code="NOT_ALLOWED")
    assert journal.accept(command(5, generation=9), end=refused, at=5) is Receipt.ENDED
    assert take(journal, command(1)) is Receipt.TAKEN
    assert take(journal, command(2, generation=3)) is Receipt.TAKEN
    assert take(journal, command(3, generation=2)) is Receipt.ENDED
    assert take(journal, command(4, allocation="a2")) is Receipt.TAKEN
    # In one generation the order counts.
    assert take(journal, command(0, generation=3)) is Receipt.ENDED
    assert [event.error_code for event in journal.events(after=0, limit=10)] == [
        "NOT_ALLOWED",
        None,
        None,
        "OUTDATED",
        None,
        "OUTDATED",
    ]


def test_a_journal_has_room_for_so_many(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "MAX_OPEN", 2)
    monkeypatch.setattr(journals, "MAX_KEPT", 4)
    assert [take(journal, command(n)).name for n in (1, 2, 3)] == ["TAKEN", "TAKEN", "ENDED"]
    busy = journal.events(after=2, limit=1)[0]
    assert (busy.state, busy.error_code) == (EventState.REFUSED, "BUSY")
    journal.finish("c1", DONE, at=6)
    assert take(journal, command(4)) is Receipt.TAKEN
    journal.finish("c2", DONE, at=6)
    assert take(journal, command(5)) is Receipt.ENDED
    # A duplicate of what is known needs no room.
    assert take(journal, command(4)) is Receipt.DUPLICATE


def test_commands_are_forgotten_long_after_their_deadline(journal: Journal) -> None:
    for number in (1, 2, 3):
        take(journal, command(number, deadline=10_000 * number))
    journal.finish("c1", DONE, at=6)
    journal.finish("c2", DONE, at=6)
    journal.acknowledge(journal.last_sequence)
    journal.forget(control_clock=KEEP_COMMANDS + 10_001)
    assert take(journal, command(2)) is Receipt.DUPLICATE
    # Forgotten, and outdated by what came after it.
    assert take(journal, command(1)) is Receipt.ENDED
    # Neither what is to do nor what is not acknowledged is forgotten.
    journal.forget(control_clock=KEEP_COMMANDS * 100)
    assert [record.command.id for record in journal.open_records()] == ["c3"]
    assert take(journal, command(2)) is Receipt.DUPLICATE


def test_a_transaction_that_fails_changes_nothing(path: Path, journal: Journal) -> None:
    class Broken(Exception):
        pass

    def fail(_moment: str) -> None:
        raise Broken

    take(journal, command())
    journal.close()
    breaking = Journal(path, witness=fail)
    for attempt in (
        lambda: take(breaking, command(2)),
        lambda: breaking.begin("c1", at=6),
        lambda: breaking.finish("c1", DONE, at=6),
        lambda: breaking.cancel("c1", at=6),
        lambda: breaking.cancel("unseen", at=6),
        lambda: breaking.acknowledge(1),
    ):
        with pytest.raises(Broken):
            attempt()
        assert told(breaking) == [(1, "c1", "ACCEPTED")]
        assert (breaking.last_sequence, breaking.acknowledged) == (1, 0)
        assert [record.state for record in breaking.open_records()] == [RecordState.WAITING]


def test_two_processes_cannot_have_one_journal(path: Path, journal: Journal) -> None:
    take(journal, command())
    with pytest.raises(JournalError, match="locked"):
        Journal(path)


class JournalMachine(RuleBasedStateMachine):
    """Whatever happens in whichever order: numbers without a gap, one end for each command."""

    numbers = st.integers(1, 4)

    @initialize()
    def open(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "journal.db"
        self.journal = Journal(self.path)
        self.seen: dict[int, tuple[str, str]] = {}

    @rule(number=numbers, generation=st.integers(0, 2))
    def accept(self, number: int, generation: int) -> None:
        take(self.journal, command(number, generation=generation))

    @rule(number=numbers)
    def begin(self, number: int) -> None:
        self.journal.begin(f"c{number}", at=6)

    @rule(number=numbers)
    def progress(self, number: int) -> None:
        self.journal.progress(f"c{number}", Progress("step"), at=6)

    @rule(number=numbers)
    def finish(self, number: int) -> None:
        self.journal.finish(f"c{number}", DONE, at=7)

    @rule(number=numbers)
    def cancel(self, number: int) -> None:
        self.journal.cancel(f"c{number}", at=7)

    @rule(back=st.integers(0, 3))
    def acknowledge(self, back: int) -> None:
        self.hear()
        self.journal.acknowledge(max(0, self.journal.last_sequence - back))

    @rule()
    def restart(self) -> None:
        self.hear()
        self.journal.close()
        self.journal = Journal(self.path)

    def hear(self) -> None:
        for sequence, name, state in told(self.journal):
            assert self.seen.setdefault(sequence, (name, state)) == (name, state)

    @invariant()
    def nothing_is_missing(self) -> None:
        self.hear()
        assert sorted(self.seen) == list(range(1, self.journal.last_sequence + 1))
        ends: dict[str, set[str]] = {}
        for name, state in self.seen.values():
            if EventState(state).is_end:
                ends.setdefault(name, set()).add(state)
        assert all(len(states) == 1 for states in ends.values())

    def teardown(self) -> None:
        self.journal.close()
        self.directory.cleanup()


JournalMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
TestJournalMachine = JournalMachine.TestCase
