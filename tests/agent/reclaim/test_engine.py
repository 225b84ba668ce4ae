"""The order, the attempts and the proof, with steps made by hand."""

import asyncio
import threading

from remotegpu_agent.commands.records import Progress
from remotegpu_agent.reclaim.engine import ATTEMPTS, ROUNDS, Engine
from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings, Step
from remotegpu_agent.reclaim.tenancy import Account, Tenancy, objection
from remotegpu_protocol.kinds import CleanedSurface, CleaningReport

TENANCY = Tenancy("a1", Account("rg-ada", 64000, "/home/rg-ada"), ["GPU-1"], [(700000, 65536)])


class Place(Step):
    """Holds things, and gives them away one removal at a time, after `stubborn` in vain."""

    surface = "place"

    def __init__(self, things: int = 1, *, stubborn: int = 0, returns: int = 0) -> None:
        super().__init__(TENANCY)
        self.things, self.stubborn, self.returns = things, stubborn, returns
        self.removals = 0

    async def look(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for number in range(self.things):
            findings.add(f"thing {number}")
        if not self.things and self.returns:
            self.returns, self.things = self.returns - 1, 1
        return findings

    async def remove(self, deadline: Deadline) -> None:
        self.removals += 1
        if self.removals > self.stubborn:
            self.things = 0


class Hanging(Place):
    timeout = 0.05

    async def remove(self, deadline: Deadline) -> None:
        await asyncio.sleep(60)


class Stuck(BlockingStep):
    """Waits for a file system that does not answer, until the test is over."""

    surface = "stuck"
    timeout = 0.02

    def __init__(self, answer: threading.Event) -> None:
        super().__init__(TENANCY)
        self._answer = answer

    def look_now(self, deadline: Deadline) -> Findings:
        self._answer.wait(30)
        return Findings()

    def remove_now(self, deadline: Deadline) -> None:
        """Never comes to it."""


class Mistaken(Place):
    async def look(self, deadline: Deadline) -> Findings:
        raise ValueError("nobody foresaw it")


class Last(Place):
    only_when_clean = True


async def run(*steps: Step) -> CleaningReport:
    async def report(_progress: Progress) -> None:
        pass

    return await Engine(steps, pause=0.001).run(report)


async def item(step: Step) -> CleanedSurface:
    report = await run(step)
    assert report.verified is report.items[0].verified
    return report.items[0]


async def test_tried_again_and_proven() -> None:
    assert (await item(Place(0))).verified
    once = Place(7)
    found = await item(once)
    assert (found.found, found.removed, found.verified, once.removals) == (7, 7, True, 1)
    stubborn = Place(stubborn=ATTEMPTS - 1)
    assert (await item(stubborn)).verified
    assert stubborn.removals == ATTEMPTS


async def test_what_the_first_look_misses_is_removed() -> None:
    for hidden in (Place(0), Mistaken(0)):
        removals = hidden.removals
        found = await item(hidden)
        assert found.verified is not isinstance(hidden, Mistaken)
        assert hidden.removals > removals


async def test_what_stays_is_told() -> None:
    found = await item(Place(8, stubborn=10 * ATTEMPTS))
    assert (found.found, found.removed, found.verified) == (8, 0, False)
    assert found.detail == "Left: thing 0, thing 1, thing 2, thing 3, thing 4 and 3 more."
    hanging = await item(Hanging())
    assert (hanging.verified, hanging.detail) == (
        False,
        "It took longer than 0.05 s. Left: thing 0.",
    )
    mistaken = await item(Mistaken())
    assert not mistaken.verified
    assert "ValueError" in (mistaken.detail or "")


async def test_what_hangs_holds_up_nothing_else() -> None:
    answer = threading.Event()
    try:
        for _ in range(16):
            found = await item(Stuck(answer))
            assert (found.verified, found.detail) == (False, "It took longer than 0.02 s.")
        async with asyncio.timeout(10):
            assert await asyncio.to_thread(lambda: "done") == "done"
    finally:
        answer.set()


async def test_what_comes_back_is_removed_again() -> None:
    once = await item(Place(1, returns=1))
    assert (once.found, once.removed, once.verified) == (2, 2, True)
    always = await item(Place(1, returns=10**6))
    assert not always.verified
    assert ROUNDS < 10


async def test_the_last_waits_for_all_the_rest() -> None:
    last = Last()
    report = await run(Mistaken(), Place(), last)
    assert [found.verified for found in report.items] == [False, True, False]
    assert (last.things, last.removals) == (1, 0)
    assert (await run(Place(), Last())).verified


def test_what_is_not_the_allocations_alone() -> None:
    def changed(name: str = "rg-ada", uid: int = 64000, home: str = "/home/rg-ada") -> str | None:
        return objection(Tenancy("a1", Account(name, uid, home), []))

    assert changed() is None
    for uid in (0, 1, 999, 65534, 2**32 - 1):
        assert "system" in (changed(uid=uid) or ""), uid
    for name in ("root", "", "a b", "-rf", "Ada", "a" * 33, "a\n", "a:b"):
        assert "no name" in (changed(name=name) or ""), name
    for home in ("/", "/home", "home/ada", "/home/../etc", "/home/../etc/x", ""):
        assert "no home" in (changed(home=home) or ""), home
    assert "holds the home" in (changed(home="/usr/sbin") or "")
    assert objection(Tenancy("a1", TENANCY.account, [], [(0, 10)])) is not None
