"""Users of a host on which a real systemd runs, with logind, sshd, cron and atd."""

from pathlib import Path

import pytest

from remotegpu_agent.reclaim.steps import make_steps
from remotegpu_agent.sources.absent import AbsentSource
from tests.agent.reclaim.isolation import own_uid
from tests.agent.reclaim.resident import UNITS, Resident
from tests.agent.reclaim.test_hosts import by_surface, clean, no_access

pytestmark = pytest.mark.booted

#: What users of such a host leave, beside what all do. Logind's memory of a user is over by itself after
#: ten seconds, before or after somebody looks.
LEFT = {
    "sign-in",
    "SSH keys",
    "lingering",
    "cron",
    "at jobs",
    "systemd user units",
    "journal",
    "home directory",
    "account",
}


async def test_of_one_everything_and_of_another_nothing(tmp_path: Path) -> None:
    ada, bob = (
        Resident.made("rg-ada", own_uid(1), tmp_path),
        Resident.made("rg-bob", own_uid(2), tmp_path),
    )
    for resident in (ada, bob):
        resident.settle()
        assert resident.units() >= UNITS
        assert "canary" in resident.said()
    with ada.stay() as session, bob.stay() as other:
        report, _ = await clean(make_steps(ada.tenancy, AbsentSource(), {}, no_access()))
        assert (report.performed, report.verified) == (True, True), report
        items = by_surface(report)
        for surface in LEFT:
            assert (items[surface].found > 0, items[surface].verified) == (True, True), surface
        assert ada.residue() == []
        assert not ada.may_enter()
        assert session.wait(10) != 0
        # Of the other not even a session was ended.
        assert other.poll() is None
        assert bob.units() >= UNITS
        assert "canary" in bob.said()
        assert len(bob.residue()) > 40
        other.kill()
    # Whoever gets the user id next is a stranger, also to logind and journald.
    eve = Resident.made("rg-eve", ada.uid, tmp_path)
    eve.ssh("loginctl enable-linger")
    assert not eve.units() & UNITS
    assert eve.said() == ""
    assert "/var/lib/systemd/linger/rg-eve" in eve.residue()
