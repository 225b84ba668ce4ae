"""The account's lines in the tables of a host, however far somebody came with removing them."""

from pathlib import Path

import pytest

from remotegpu_agent.accounts.subordinate import subordinate_ids
from remotegpu_agent.reclaim.step import Deadline
from remotegpu_agent.reclaim.surfaces.account import AccountItself
from tests.agent.reclaim.isolation import own_uid
from tests.agent.reclaim.tenant import Tenant

pytestmark = pytest.mark.isolated

_ETC = Path("/etc")
#: In the order in which userdel replaces them.
_TABLES = ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")


def strike(table: str, name: str) -> None:
    path = _ETC / table
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(f"{name}:")))


def test_a_userdel_that_was_killed_is_done_again() -> None:
    others = Tenant("rg-bob", own_uid(2))
    kept = others.residue()
    for number in range(len(_TABLES) + 1):
        tenant = Tenant("rg-ada", own_uid(1))
        for table in _TABLES[:number]:
            strike(table, "rg-ada")
        account = AccountItself(tenant.tenancy)
        assert account.look_now(Deadline(20)).count == len(_TABLES) - number
        if number < len(_TABLES):
            account.remove_now(Deadline(60))
        assert account.look_now(Deadline(20)).count == 0
        for table in _TABLES:
            assert "rg-ada" not in (_ETC / table).read_text(), table
        # The home is another step's.
        Path("/home/rg-ada").rename(f"/home/gone-{number}")
    assert others.residue() == kept

    # Further ids by number, which newuidmap(1) takes for the account's, and userdel leaves.
    tenant = Tenant("rg-ada", own_uid(1))
    for table in ("subuid", "subgid"):
        with (_ETC / table).open("a") as file:
            file.write(f"{tenant.uid}:900000000:65536\n{tenant.uid}1:910000000:65536\n")
    assert (900_000_000, 65536) in subordinate_ids("rg-ada", tenant.uid)
    account = AccountItself(tenant.tenancy)
    account.remove_now(Deadline(60))
    assert not account.look_now(Deadline(20))
    for table in ("subuid", "subgid"):
        owners = [line.split(":")[0] for line in (_ETC / table).read_text().splitlines()]
        assert owners == ["rg-bob", f"{tenant.uid}1"]
