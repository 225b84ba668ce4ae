"""Passwords: what is good enough, and argon2id with its work kept off the event loop."""

import asyncio
import os
import secrets
import string
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from remotegpu_core.errors import InvalidInput, Unavailable

Result = TypeVar("Result")

MIN_LENGTH = 8
#: Long enough for any passphrase, short enough that hashing it costs nothing.
MAX_LENGTH = 256

# RFC 9106's second recommendation is 64 MiB, t=3, p=4; OWASP's minimum is 19 MiB, t=2, p=1.
# 32 MiB and t=3 take about 40 ms of one core, so that two cores check 50 sign-ins a second.
_hasher = PasswordHasher(time_cost=3, memory_cost=32 * 1024, parallelism=1)
# argon2 gives up the interpreter lock; more threads than cores would only take memory.
_pool = ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1), thread_name_prefix="argon2")

#: Passwords that may wait for a thread: five seconds' worth. More are turned away, since whoever
#: sent the first would have given up before the last was looked at.
MAX_WAITING = 250
_waiting = 0

#: What an unknown user's attempt is checked against, so that it takes as long as any other.
_nobody: str | None = None


def in_one_form(password: str) -> str:
    """The password as RFC 8265 (OpaqueString) compares it: NFC, and every kind of blank a space.

    Keyboards of one system type `é` as one character, those of another as two.
    """
    spaced = "".join(" " if unicodedata.category(c) == "Zs" else c for c in password)
    return unicodedata.normalize("NFC", spaced)


def check_password_rules(password: str, *, username: str) -> None:
    """Refuse passwords that are guessed in no time.

    Raises:
        InvalidInput: too short, too long, the user's name, or one character repeated.
    """
    if len(password) <= MAX_LENGTH:
        password = in_one_form(password)
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise InvalidInput(
            f"A password has {MIN_LENGTH} to {MAX_LENGTH} characters; this one has "
            f"{len(password)}.",
            field="password",
        )
    if len(set(password)) < 4 or password.lower() == username.lower():
        raise InvalidInput(
            "This password is guessed at once: use at least four different characters, and not "
            "the user name.",
            field="password",
        )


def make_password() -> str:
    """A random password of 24 letters and digits (142 bits)."""
    alphabet = string.ascii_letters + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(24))


async def hash_password(password: str) -> str:
    return await _run(_hash, in_one_form(password))


async def verify_password(password: str, stored: str | None) -> bool:
    """Whether `password` is the one behind `stored`; None stands for a user that is not there."""
    if len(password) > MAX_LENGTH:
        return False
    return await _run(_verify, in_one_form(password), stored)


def needs_rehash(stored: str) -> bool:
    """Whether `stored` was made with weaker parameters than today's."""
    return _hasher.check_needs_rehash(stored)


def _hash(password: str) -> str:
    return _hasher.hash(password.encode("utf-8", "surrogatepass"))


def _verify(password: str, stored: str | None) -> bool:
    global _nobody
    if stored is None:
        if _nobody is None:
            _nobody = _hasher.hash(secrets.token_bytes(16))
        stored = _nobody
    try:
        return _hasher.verify(stored, password.encode("utf-8", "surrogatepass"))
    except (VerificationError, InvalidHashError):
        return False


async def _run(function: Callable[..., Result], *arguments: str | None) -> Result:
    global _waiting
    if _waiting >= MAX_WAITING:
        raise Unavailable("Too many sign-ins at this moment: try again in a few seconds.")
    _waiting += 1
    try:
        return await asyncio.get_running_loop().run_in_executor(_pool, function, *arguments)
    finally:
        _waiting -= 1
