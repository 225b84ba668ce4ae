import re

import pytest

from remotegpu_core.secret import Kind, kind_of, new_secret, secret_hash


@pytest.mark.parametrize("kind", list(Kind))
def test_a_secret_says_its_kind_and_nothing_else(kind: Kind) -> None:
    made = {new_secret(kind) for _ in range(100)}
    assert len(made) == 100
    for secret in made:
        assert re.fullmatch(rf"{kind}_[A-Za-z0-9_-]{{43}}", secret)
        assert kind_of(secret) is kind


def test_what_is_stored_does_not_hold_the_secret() -> None:
    secret = new_secret(Kind.SESSION)
    stored = secret_hash(secret)
    assert re.fullmatch("[0-9a-f]{64}", stored)
    assert secret_hash(secret) == stored
    assert secret_hash(secret + "x") != stored
    assert secret.removeprefix("rgs_") not in stored


@pytest.mark.parametrize(
    "text", ["", "_", "rgs", "rgs_", "rgx_abc", "RGS_abc", " rgs_abc", "rgs_" + "a" * 200, "Bearer"]
)
def test_what_is_none_of_ours(text: str) -> None:
    assert kind_of(text) is None


@pytest.mark.parametrize("text", ["\ud800", "\x00", "é", "rgs_\udfff"])
def test_any_text_can_be_hashed(text: str) -> None:
    assert len(secret_hash(text)) == 64
