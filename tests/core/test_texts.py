"""Texts that people give: in one form, and nothing in them that others cannot see."""

from collections.abc import Awaitable, Callable

import pytest

from remotegpu_core.actor import Actor, Scope
from remotegpu_core.errors import Conflict, InvalidInput
from remotegpu_core.services import api_tokens, enrollments, maintenance, ssh_keys, workspaces
from remotegpu_core.services.datasets.registry import NewDataset, register_dataset
from remotegpu_core.services.datasets.source import Source
from remotegpu_core.settings import Settings
from remotegpu_core.texts import checked_name, name_key
from remotegpu_protocol.datasets import SourceKind
from tests.core.hosts import make_machine
from tests.core.people import make_admin

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7Kc0Wq0nBMfVnVbn0QMGOkLmW4iy7YSzZcGJ3N8G3r"

Give = Callable[[str], Awaitable[object]]


def test_names_that_look_alike_are_one() -> None:
    for one, other in (
        ("Caf\u00e9", "cafe\u0301"),
        ("Stra\u00dfe", "STRASSE"),
        ("\uff27\uff30\uff35", "gpu"),
        ("\u212bngstr\u00f6m", "a\u030angstro\u0308m"),
    ):
        assert name_key(one) == name_key(other)
        assert name_key(name_key(one)) == name_key(one)


def test_a_name_is_kept_composed() -> None:
    assert checked_name("cafe\u0301", "A dataset") == "caf\u00e9"
    assert checked_name("e\u0301" * 64, "A dataset") == "\u00e9" * 64
    for wrong in ("", " x", "x\u00a0", "x" * 65, "\u1e9e" * 33, "e\u0301" * 65):
        with pytest.raises(InvalidInput, match="A dataset's name has 1 to 64"):
            checked_name(wrong, "A dataset")


#: Bidirectional overrides and isolates, zero-width characters, fillers: nothing of them is seen.
INVISIBLE = ["\u202e", "\u2066", "\u200b", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u3164", "\t"]


@pytest.mark.usefixtures("database")
async def test_no_name_holds_what_others_cannot_see(settings: Settings) -> None:
    admin = await make_admin()
    machine = await make_machine("gpu-01")
    source = Source(SourceKind.S3, "s3://models/x", endpoint="https://s3.example.org")
    workspace = await workspaces.create_workspace(admin, "vision")

    giving: list[Give] = [
        lambda text: api_tokens.create_api_token(admin, text, frozenset({Scope.READ}), None),
        lambda text: ssh_keys.add_ssh_key(admin, text, KEY),
        lambda text: workspaces.create_workspace(admin, text),
        lambda text: workspaces.rename_workspace(admin, workspace.id, text),
        lambda text: register_dataset(admin, settings, NewDataset(text, source)),
        lambda text: maintenance.rename(admin, machine.id, text),
        lambda text: enrollments.create_enrollment(admin, settings, machine_name=text),
        lambda text: enrollments.create_enrollment(
            admin, settings, machine_name="new", labels=[("a", text)]
        ),
        lambda text: maintenance.set_labels(admin, machine.id, [("room", text)]),
    ]
    for give in giving:
        for character in INVISIBLE:
            with pytest.raises(InvalidInput):
                await give(f"gpu{character}fdp.exe")


@pytest.mark.usefixtures("database")
async def test_a_name_is_taken_in_every_form(admin: Actor) -> None:
    await workspaces.create_workspace(admin, "Caf\u00e9")
    for same in ("cafe\u0301", "CAF\u00c9", "\uff23afe\u0301"):
        with pytest.raises(Conflict):
            await workspaces.create_workspace(admin, same)
