import asyncio
import base64
import secrets
import struct

import pytest

from remotegpu_core.actor import Actor, anonymous
from remotegpu_core.database.connection import Database
from remotegpu_core.errors import (
    Conflict,
    InvalidInput,
    LimitExceeded,
    NotFound,
    SshKeyOptions,
    SshKeyRefused,
    SshKeyWeak,
    Unauthenticated,
)
from remotegpu_core.models import AuditEvent, SshKey, User
from remotegpu_core.paging import PageRequest
from remotegpu_core.services.allocations.accounts import key_lines
from remotegpu_core.services.ssh_keys import (
    add_ssh_key,
    list_ssh_keys,
    remove_ssh_key,
    visible_ssh_keys,
    warning_of,
)
from remotegpu_protocol.limits import MAX_SSH_KEYS
from tests.core.people import make_admin, make_tenant

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
async def alice(database: Database) -> Actor:
    return await make_tenant()


def make_line() -> str:
    """Bytes in the shape of an ed25519 key."""
    packed = b"".join(
        struct.pack(">I", len(field)) + field for field in (b"ssh-ed25519", secrets.token_bytes(32))
    )
    return f"ssh-ed25519 {base64.b64encode(packed).decode()}"


def make_rsa_line(bits: int) -> str:
    """Bytes in the shape of an RSA key."""
    fields = (b"ssh-rsa", b"\x01\x00\x01", b"\x00" + b"\xff" * (bits // 8))
    packed = b"".join(struct.pack(">I", len(field)) + field for field in fields)
    return f"ssh-rsa {base64.b64encode(packed).decode()}"


async def test_an_old_rsa_key_is_taken_with_a_warning(alice: Actor) -> None:
    row = await add_ssh_key(alice, "old", make_rsa_line(2048))
    assert "RSA of 2048 bits is not to be used after 2030" in str(warning_of(row))
    for line in (make_rsa_line(3072), make_line()):
        assert warning_of(await add_ssh_key(alice, "good", line)) is None
    with pytest.raises(SshKeyWeak, match="4096 bits at least here; this one has 2048"):
        await add_ssh_key(alice, "old", make_rsa_line(2048), rsa_bits=4096)


async def test_a_key_is_kept_without_its_comment_and_goes_again(alice: Actor) -> None:
    line = make_line()
    row = await add_ssh_key(alice, "laptop", f"  {line} ada@lab \u202e(rm)\n")
    assert (row.line, row.algorithm, row.comment) == (line, "ssh-ed25519", "ada@lab  (rm)")
    second = make_line()
    await add_ssh_key(alice, "desk", second)
    assert alice.user_id is not None
    assert await key_lines(alice.user_id) == [line, second]
    page = await list_ssh_keys(alice, PageRequest())
    assert [key.name for key in page.rows] == ["desk", "laptop"]

    assert (await remove_ssh_key(alice, row.id)).id == row.id
    assert await key_lines(alice.user_id) == [second]
    with pytest.raises(NotFound):
        await remove_ssh_key(alice, row.id)
    events = await AuditEvent.filter(action__in=["addSshKey", "removeSshKey"]).order_by("id")
    assert [event.action for event in events] == ["addSshKey", "addSshKey", "removeSshKey"]
    assert events[0].details == {"name": "laptop", "fingerprint": row.fingerprint}


async def test_a_key_is_anothers_too_but_ones_own_only_once(alice: Actor) -> None:
    line = make_line()
    row = await add_ssh_key(alice, "laptop", line)
    with pytest.raises(Conflict) as caught:
        await add_ssh_key(alice, "again", f"{line} other")
    assert caught.value.field == ["publicKey"]
    bob = await make_tenant()
    await add_ssh_key(bob, "laptop", line)
    # Nobody but admins sees or removes what is another's.
    assert await visible_ssh_keys(bob, [row.id]) == {}
    with pytest.raises(NotFound):
        await remove_ssh_key(bob, row.id)
    admin = await make_admin()
    assert set(await visible_ssh_keys(admin, [row.id])) == {row.id}
    await remove_ssh_key(admin, row.id)
    assert await SshKey.all().count() == 1


async def test_what_is_refused_changes_nothing(alice: Actor) -> None:
    with pytest.raises(Unauthenticated):
        await add_ssh_key(anonymous(), "laptop", make_line())
    for name in ("", " x", "a\nb", "x" * 65, "\ud800"):
        with pytest.raises(InvalidInput) as caught:
            await add_ssh_key(alice, name, make_line())
        assert caught.value.field == ["name"]
    for text in ("\ud800", "ssh-rsa AAAA\x00", "x" * 100_000):
        with pytest.raises(SshKeyRefused):
            await add_ssh_key(alice, "laptop", text)
    with pytest.raises(SshKeyOptions) as refused:
        await add_ssh_key(alice, "laptop", f'command="x" {make_line()}')
    assert refused.value.field == ["publicKey"]
    assert await SshKey.all().count() == 0


async def test_no_more_than_so_many_at_once_too(alice: Actor) -> None:
    for number in range(MAX_SSH_KEYS - 1):
        await add_ssh_key(alice, f"key {number}", make_line())
    results = await asyncio.gather(
        *(add_ssh_key(alice, "last", make_line()) for _ in range(3)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, BaseException)]
    assert len(refused) == 2
    assert all(isinstance(result, LimitExceeded) for result in refused)
    assert alice.user_id is not None
    assert len(await key_lines(alice.user_id)) == MAX_SSH_KEYS
    await User.filter(id=alice.user_id).delete()
    assert await SshKey.all().count() == 0
