import asyncio
import time

import pytest
from argon2 import PasswordHasher, Type, extract_parameters

from remotegpu_core import passwords
from remotegpu_core.errors import InvalidInput
from remotegpu_core.passwords import (
    MAX_LENGTH,
    MIN_LENGTH,
    check_password_rules,
    hash_password,
    make_password,
    needs_rehash,
    verify_password,
)


@pytest.mark.parametrize(
    "password",
    ["mallory-Passw0rd-1", "correct horse battery staple", "пароль-из-слов", "a\x00bcd" * 3],
)
def test_good_enough(password: str) -> None:
    check_password_rules(password, username="mallory")


@pytest.mark.parametrize(
    "password",
    [
        "",
        "aB3" + "x" * (MIN_LENGTH - 4),
        "aB3-" + "x" * (MAX_LENGTH - 3),
        "a" * 20,
        "abababababab",
        "Mallory-The-First",
    ],
)
def test_guessed_at_once(password: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_password_rules(password, username="mallory-the-first")
    assert caught.value.field == ["password"]
    assert not password or password not in caught.value.message


async def test_a_hash_is_argon2id_with_a_salt_of_its_own() -> None:
    first, second = await asyncio.gather(*(hash_password("mallory-Passw0rd-1") for _ in range(2)))
    assert first != second
    assert first.startswith("$argon2id$v=19$m=32768,t=3,p=1$")
    parameters = extract_parameters(first)
    assert parameters.type is Type.ID
    # OWASP's minimum for argon2id: 19 MiB with two passes.
    assert parameters.memory_cost >= 19 * 1024
    assert parameters.time_cost >= 2
    assert "mallory" not in first


async def test_one_password_however_a_keyboard_composes_it() -> None:
    """RFC 8265, OpaqueString: NFC, and blanks of every kind are one. Case and width count."""
    typed = "g\u00fcn\u00e9s \u1e9b\u0323 \u65e5\u672c 42"
    for other in ("gu\u0308ne\u0301s\u00a0\u1e9b\u0323\u3000\u65e5\u672c\u200242",):
        assert await verify_password(other, await hash_password(typed))
        assert await verify_password(typed, await hash_password(other))
    hashed = await hash_password("Caf\u00e9-Passw0rd")
    for different in ("caf\u00e9-Passw0rd", "Cafe-Passw0rd", "\uff23af\u00e9-Passw0rd"):
        assert not await verify_password(different, hashed)
    with pytest.raises(InvalidInput, match="this one has 6"):
        check_password_rules("e\u0301" * 6, username="x")


@pytest.mark.parametrize(
    "password", ["mallory-Passw0rd-1", "\ud800-lone-surrogate", "nul\x00-inside"]
)
async def test_only_the_password_itself_is_right(password: str) -> None:
    stored = await hash_password(password)
    assert await verify_password(password, stored)
    for wrong in (password + " ", password[:-1], password.swapcase(), ""):
        assert not await verify_password(wrong, stored)


async def test_what_is_no_hash_matches_nothing() -> None:
    for stored in ("", "none", "$argon2id$v=19$broken"):
        assert not await verify_password("none", stored)


async def test_an_endless_password_is_not_hashed() -> None:
    started = time.perf_counter()
    assert not await verify_password("x" * 10_000_000, await hash_password("short-Passw0rd"))
    assert time.perf_counter() - started < 1


async def test_an_unknown_user_costs_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[str] = []
    hasher = passwords._hasher

    class Recorder:
        """Does what the hasher does and writes down what was verified."""

        hash = hasher.hash

        def verify(self, stored: str, password: bytes) -> bool:
            verified.append(stored)
            return hasher.verify(stored, password)

    monkeypatch.setattr(passwords, "_hasher", Recorder())
    monkeypatch.setattr(passwords, "_nobody", None)
    assert not await verify_password("mallory-Passw0rd-1", None)
    assert not await verify_password("mallory-Passw0rd-1", await hash_password("other-Passw0rd"))
    nobody, somebody = (extract_parameters(stored) for stored in verified)
    assert nobody == somebody


async def test_weaker_hashes_are_noticed() -> None:
    assert needs_rehash(PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash("x"))
    assert not needs_rehash(await hash_password("x"))


def test_passwords_that_are_made_up_keep_the_rules() -> None:
    made = {make_password() for _ in range(100)}
    assert len(made) == 100
    for password in made:
        check_password_rules(password, username="admin")
        assert password.isalnum()


async def test_hashing_does_not_hold_the_loop() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticking = asyncio.create_task(tick())
    await asyncio.gather(*(hash_password("mallory-Passw0rd-1") for _ in range(4)))
    ticking.cancel()
    assert ticks >= 5
