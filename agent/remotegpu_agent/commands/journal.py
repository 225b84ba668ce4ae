"""The journal: every command that was taken on and every event about it, before anything else.

Each method is one transaction, durable when it returns: what is written is on the disk before it
is sent or done. Methods are for the disk's thread. Every one may raise JournalError; nothing is
changed then.
"""

import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec import structs

from remotegpu_agent.commands.moments import Moment, Witness, nobody
from remotegpu_agent.commands.records import (
    CancelReceipt,
    Counts,
    Outcome,
    Progress,
    Receipt,
    Record,
    RecordState,
)
from remotegpu_agent.commands.schema import open_database
from remotegpu_agent.errors import JournalError
from remotegpu_agent.reserve import Reserve
from remotegpu_protocol.commands import Command, Event, EventState

#: Commands that are not over; more are refused.
MAX_OPEN: Final = 1000
#: Commands altogether; more are refused until old ones were forgotten.
MAX_KEPT: Final = 20_000
#: Milliseconds for which a command is remembered after its deadline. One that comes again later
#: than that is new, and refused for its deadline.
KEEP_COMMANDS: Final = 7 * 24 * 3600 * 1000
#: Milliseconds for which the generation of an allocation is remembered after its last command.
KEEP_GENERATIONS: Final = 366 * 24 * 3600 * 1000

_Result = TypeVar("_Result")
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Event)


class Journal:
    """An open journal; `clock_offset` is the control plane's clock minus ours, as last stored."""

    def __init__(
        self, path: Path, *, reserve: Reserve | None = None, witness: Witness = nobody
    ) -> None:
        self._path = path
        self._reserve = reserve
        self._witness = witness
        #: The last event that was given out to be sent.
        self._read = 0
        if reserve is not None:
            reserve.make_room()
        try:
            self._database = open_database(path, f"journal-{secrets.token_hex(12)}")
            meta = dict(self._database.execute("SELECT name, value FROM meta").fetchall())
            self.journal_id = str(meta["journal_id"])
            self.last_sequence = int(meta["last_sequence"])
            self.acknowledged = int(meta["acknowledged"])
            self.clock_offset = int(meta["clock_offset"])
        except (sqlite3.Error, OSError, KeyError, ValueError) as error:
            raise self._broken(error) from None

    def close(self) -> None:
        try:
            self._database.close()
        except sqlite3.Error as error:
            raise self._broken(error) from None

    def accept(self, command: Command, *, end: Outcome | None, at: int) -> Receipt:
        """Write a command down with its first event: ACCEPTED, or the end that it came to.

        `at` is the host's clock, in milliseconds.
        """
        with self._transaction(Moment.ACCEPTING, Moment.ACCEPTED):
            found = self._one("SELECT latest FROM command WHERE id = ?", command.id)
            if found is not None:
                self._tell_again(command.id, found[0], at)
                return Receipt.DUPLICATE
            end = self._outdated(command) or end or self._full()
            state = RecordState.WAITING if end is None else RecordState.ENDED
            event = self._write_event(
                command.id, Outcome(EventState.ACCEPTED) if end is None else end, at
            )
            self._insert(command, state, event)
            if end is None and command.allocation_id is not None:
                self._database.execute(
                    "INSERT OR REPLACE INTO allocation VALUES (?, ?, ?, ?)",
                    (command.allocation_id, command.generation, command.sequence, at),
                )
        return Receipt.TAKEN if end is None else Receipt.ENDED

    def begin(self, command_id: str, *, at: int) -> bool:
        """Right before the effect. False when the command was cancelled meanwhile."""
        with self._transaction(Moment.BEGINNING, Moment.BEGUN):
            moved = self._database.execute(
                "UPDATE command SET state = ? WHERE id = ? AND state = ?",
                (RecordState.BEGUN, command_id, RecordState.WAITING),
            )
            if moved.rowcount == 0:
                return False
            self._write_event(command_id, Outcome(EventState.RUNNING), at)
        return True

    def progress(self, command_id: str, progress: Progress, *, at: int) -> None:
        """Tell how far a command is. Replaces what was to be told and was not read yet."""
        with self._transaction(Moment.PROGRESSING, Moment.PROGRESSED):
            if self._state(command_id) is not RecordState.BEGUN:
                return
            waiting = self._one(
                "SELECT max(sequence) FROM event WHERE command_id = ? AND state = ?"
                " AND sequence > ?",
                command_id,
                EventState.RUNNING,
                self._read,
            )
            place = waiting[0] if waiting is not None else None
            self._write_event(command_id, Outcome(EventState.RUNNING), at, progress, place=place)

    def finish(self, command_id: str, outcome: Outcome, *, at: int) -> bool:
        """The end of a command. False when it had ended already."""
        with self._transaction(Moment.FINISHING, Moment.FINISHED):
            moved = self._database.execute(
                "UPDATE command SET state = ? WHERE id = ? AND state <> ?",
                (RecordState.ENDED, command_id, RecordState.ENDED),
            )
            if moved.rowcount == 0:
                return False
            self._write_event(command_id, outcome, at)
        return True

    def cancel(self, command_id: str, *, at: int) -> CancelReceipt:
        """Take a command back, one that never came included."""
        with self._transaction(Moment.CANCELLING, Moment.CANCELLED):
            state = self._state(command_id)
            if state is RecordState.ENDED:
                return CancelReceipt.OVER
            if state is RecordState.BEGUN:
                self._database.execute(
                    "UPDATE command SET cancelled = 1 WHERE id = ?", (command_id,)
                )
                return CancelReceipt.BEGUN
            event = self._write_event(command_id, Outcome(EventState.CANCELLED), at)
            if state is None:
                # Kept as long as any other, in case that it still comes.
                unseen = Command(command_id, 0, "unseen.command", b"\x80", deadline=at)
                self._insert(unseen, RecordState.ENDED, event)
            else:
                self._database.execute(
                    "UPDATE command SET state = ? WHERE id = ?", (RecordState.ENDED, command_id)
                )
        return CancelReceipt.ENDED

    def acknowledge(self, sequence: int) -> None:
        """Forget events up to this one; those that were never made cannot be acknowledged."""
        sequence = min(sequence, self.last_sequence)
        if sequence <= self.acknowledged:
            return
        with self._transaction(Moment.ACKNOWLEDGING, Moment.ACKNOWLEDGED):
            self._database.execute("DELETE FROM event WHERE sequence <= ?", (sequence,))
            self._set("acknowledged", sequence)
        self.acknowledged = sequence

    def events(self, *, after: int, limit: int) -> list[Event]:
        """Events beyond `after` that are not acknowledged, in their order."""

        def read() -> list[Event]:
            rows = self._database.execute(
                "SELECT content FROM event WHERE sequence > ? ORDER BY sequence LIMIT ?",
                (after, limit),
            )
            events = [_decoder.decode(content) for (content,) in rows]
            self._read = max(self._read, events[-1].sequence if events else 0)
            return events

        return self._reading(read)

    def open_records(self) -> list[Record]:
        """Commands that are not over, in their order."""

        def read() -> list[Record]:
            rows = self._database.execute(
                "SELECT id, sequence, kind, arguments, deadline, allocation_id, generation, state,"
                " cancelled FROM command WHERE state <> ? ORDER BY sequence, id",
                (RecordState.ENDED,),
            )
            return [
                Record(Command(*values), RecordState(state), bool(cancelled))
                for *values, state, cancelled in rows
            ]

        return self._reading(read)

    def counts(self) -> Counts:
        def read() -> Counts:
            states = dict(
                self._database.execute("SELECT state, count(*) FROM command GROUP BY state")
            )
            (events,) = self._database.execute("SELECT count(*) FROM event").fetchone()
            return Counts(
                states.get(RecordState.WAITING, 0), states.get(RecordState.BEGUN, 0), events
            )

        return self._reading(read)

    def store_clock_offset(self, offset: int) -> None:
        """Remember the control plane's clock minus ours, for deadlines that pass while away."""
        with self._transaction():
            self._set("clock_offset", offset)
        self.clock_offset = offset

    def forget(self, *, control_clock: int) -> None:
        """Forget what can come again no more, by the control plane's clock."""
        with self._transaction():
            self._database.execute(
                "DELETE FROM command WHERE state = ? AND deadline < ?"
                " AND id NOT IN (SELECT command_id FROM event)",
                (RecordState.ENDED, control_clock - KEEP_COMMANDS),
            )
            self._database.execute(
                "DELETE FROM allocation WHERE touched_at < ? AND id NOT IN"
                " (SELECT allocation_id FROM command WHERE allocation_id IS NOT NULL)",
                (control_clock - KEEP_GENERATIONS,),
            )

    def _outdated(self, command: Command) -> Outcome | None:
        if command.allocation_id is None:
            return None
        seen = self._one(
            "SELECT generation, sequence FROM allocation WHERE id = ?", command.allocation_id
        )
        if seen is None or (command.generation, command.sequence) > seen:
            return None
        return Outcome(
            EventState.REFUSED,
            error_code="OUTDATED",
            error_message=(
                f"Expected generation {seen[0]} of this allocation and a sequence beyond {seen[1]},"
                f" got generation {command.generation}, sequence {command.sequence}: something"
                " newer was commanded meanwhile."
            ),
        )

    def _full(self) -> Outcome | None:
        (kept, unfinished) = self._database.execute(
            "SELECT count(*), count(CASE WHEN state <> ? THEN 1 END) FROM command",
            (RecordState.ENDED,),
        ).fetchone()
        if unfinished < MAX_OPEN and kept < MAX_KEPT:
            return None
        return Outcome(
            EventState.REFUSED,
            error_code="BUSY",
            error_message=(
                f"This host has {unfinished} commands to do and remembers {kept}; it takes at most"
                f" {MAX_OPEN} and {MAX_KEPT}. Try again later."
            ),
        )

    def _insert(self, command: Command, state: RecordState, latest: Event) -> None:
        self._database.execute(
            "INSERT INTO command VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?)",
            (
                command.id,
                command.sequence,
                command.kind,
                command.arguments,
                command.deadline,
                command.allocation_id,
                command.generation,
                state,
                _encoder.encode(latest),
            ),
        )

    def _tell_again(self, command_id: str, latest: bytes, at: int) -> None:
        """A duplicate: the control plane has not heard, or has forgotten, where this stands."""
        if self._one("SELECT 1 FROM event WHERE command_id = ? LIMIT 1", command_id) is None:
            event = _decoder.decode(latest)
            self._append(structs.replace(event, sequence=self.last_sequence + 1, at=at))

    def _write_event(
        self,
        command_id: str,
        outcome: Outcome,
        at: int,
        progress: Progress | None = None,
        *,
        place: int | None = None,
    ) -> Event:
        """Append an event, or put it in the `place` of another."""
        told = progress or Progress()
        event = Event(
            sequence=self.last_sequence + 1 if place is None else place,
            command_id=command_id,
            state=outcome.state,
            at=at,
            progress=told.part,
            step=told.step,
            detail=told.detail,
            result=outcome.result,
            error_code=outcome.error_code,
            error_message=outcome.error_message,
        )
        if place is None:
            self._append(event)
        else:
            self._database.execute(
                "UPDATE event SET content = ? WHERE sequence = ?", (_encoder.encode(event), place)
            )
        self._database.execute(
            "UPDATE command SET latest = ? WHERE id = ?", (_encoder.encode(event), command_id)
        )
        return event

    def _append(self, event: Event) -> None:
        self._database.execute(
            "INSERT INTO event VALUES (?, ?, ?, ?)",
            (event.sequence, event.command_id, event.state, _encoder.encode(event)),
        )
        self._set("last_sequence", event.sequence)
        self.last_sequence = event.sequence

    def _state(self, command_id: str) -> RecordState | None:
        found = self._one("SELECT state FROM command WHERE id = ?", command_id)
        return None if found is None else RecordState(found[0])

    def _set(self, name: str, value: int) -> None:
        self._database.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))

    def _one(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        found: tuple[Any, ...] | None = self._database.execute(statement, values).fetchone()
        return found

    @contextmanager
    def _transaction(
        self, before: Moment | None = None, after: Moment | None = None
    ) -> Iterator[None]:
        last = self.last_sequence
        if self._reserve is not None:
            # What is not written is not known, and so not cleaned.
            self._reserve.make_room()
        try:
            self._database.execute("BEGIN IMMEDIATE")
            yield
            if before is not None:
                self._witness(before)
            self._database.execute("COMMIT")
        except BaseException as error:
            self.last_sequence = last
            self._roll_back()
            if isinstance(error, sqlite3.Error | OSError):
                raise self._broken(error) from None
            raise
        if after is not None:
            self._witness(after)

    def _roll_back(self) -> None:
        try:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
        except sqlite3.Error:
            # The first error is the one to tell.
            return

    def _reading(self, read: Callable[[], _Result]) -> _Result:
        try:
            return read()
        except (sqlite3.Error, msgspec.MsgspecError, ValueError) as error:
            raise self._broken(error) from None

    def _broken(self, error: Exception) -> JournalError:
        return JournalError(
            f"The journal {self._path} cannot be used: {error}. No command is taken until it can: "
            "make room, or make the state directory writable. Only where the file itself is "
            "damaged, move it away; an administrator must accept the host after that."
        )
