"""What is being cleaned and what came of it, so that an agent that died goes on where it was."""

from typing import Final

import msgspec
from msgspec import Struct, structs

from remotegpu_agent.errors import StateDirectoryError
from remotegpu_agent.reclaim.tenancy import Tenancy
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.kinds import CleaningReport

_FILE: Final = "reclaims.json"

#: Reports that are kept; one is asked for again only before its command's end is in the journal.
MAX_FINISHED: Final = 16


class ReclaimRecord(Struct, frozen=True, omit_defaults=True):
    """`report` is None until it is known how the cleaning ended."""

    tenancy: Tenancy
    report: CleaningReport | None = None


class ReclaimStore:
    """One small file, oldest first. Everything raises StateDirectoryError: it is damaged, or the
    disk does not take it."""

    def __init__(self, directory: StateDirectory) -> None:
        self._directory = directory

    def find(self, allocation_id: str) -> ReclaimRecord | None:
        return self._load().get(allocation_id)

    def unproven(self) -> set[str]:
        """Allocations whose cleaning has begun, and nothing proves yet that they are gone."""
        records = self._load().values()
        return {
            record.tenancy.allocation_id
            for record in records
            if record.report is None or not record.report.verified
        }

    def begin(self, tenancy: Tenancy) -> None:
        """From now on a report of before counts no more."""
        self._put(ReclaimRecord(tenancy))

    def finish(self, tenancy: Tenancy, report: CleaningReport) -> None:
        self._put(ReclaimRecord(tenancy, report))

    def _put(self, record: ReclaimRecord) -> None:
        records = self._load()
        records.pop(record.tenancy.allocation_id, None)
        records[record.tenancy.allocation_id] = record
        # Those that are not proven stay: the next attempt needs to know what to look for.
        proven = [name for name, kept in records.items() if kept.report and kept.report.verified]
        for name in proven[:-MAX_FINISHED]:
            del records[name]
        content = [_shortened(kept, record) for kept in records.values()]
        self._directory.write(_FILE, msgspec.json.format(msgspec.json.encode(content)) + b"\n")

    def _load(self) -> dict[str, ReclaimRecord]:
        content = self._directory.read(_FILE)
        if content is None:
            return {}
        try:
            found = msgspec.json.decode(content, type=list[ReclaimRecord])
        except msgspec.MsgspecError:
            raise StateDirectoryError(
                f"{self._directory.path / _FILE} is damaged. Look at what former users left on the "
                "host, and move the file away."
            ) from None
        return {record.tenancy.allocation_id: record for record in found}


def _shortened(kept: ReclaimRecord, latest: ReclaimRecord) -> ReclaimRecord:
    """Only the latest report is asked for again, or nearly so: of unproven ones the rest is long."""
    if kept is latest or kept.report is None or kept.report.verified:
        return kept
    return structs.replace(kept, report=structs.replace(kept.report, items=[]))
