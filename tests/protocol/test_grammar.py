import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotegpu_protocol.errors import InvalidValue
from remotegpu_protocol.grammar import (
    check_label,
    check_machine_name,
    clean_text,
    hardware_uuid,
    shorten,
)

# Any string that Python can hold, lone surrogates too.
ANY_TEXT = st.text(st.characters(), max_size=60)


@pytest.mark.parametrize("name", ["a", "0", "gpu-01", "A.b_c-9", "x" * 63])
def test_machine_names(name: str) -> None:
    assert check_machine_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-a",
        "a-",
        ".a",
        "a.",
        "_a",
        "a b",
        "a\n",
        "a/b",
        "ä",
        "٣",
        "x" * 64,
        "a\0",
        "$(id)",
        "../a",
    ],
)
def test_what_names_no_machine(name: str) -> None:
    with pytest.raises(InvalidValue, match="1 to 63"):
        check_machine_name(name)


@pytest.mark.parametrize(
    ("key", "value"), [("team", ""), ("a/b.c-d_e", "Ünïcode ok"), ("k", "v" * 255)]
)
def test_labels(key: str, value: str) -> None:
    assert check_label(key, value) == (key, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("", "v"),
        ("/k", "v"),
        ("k/", "v"),
        ("k" * 64, "v"),
        ("k", "v" * 256),
        ("k", "a\nb"),
        ("k", " v"),
        ("k", "v\u202e"),
        ("k", "\ud800"),
        ("k\n", "v"),
    ],
)
def test_what_is_no_label(key: str, value: str) -> None:
    with pytest.raises(InvalidValue, match="label"):
        check_label(key, value)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("NVIDIA H100", "NVIDIA H100"),
        (b"NVIDIA H100", "NVIDIA H100"),
        ("  padded\t", "padded"),
        (b"caf\xc3\xa9", "café"),
        (b"caf\xe9!", "caf\ufffd!"),
        ("caf\udce9", "caf\ufffd"),  # as Python decodes a Latin-1 file name
        ("caf\udcc3\udca9", "café"),  # as Python decodes UTF-8 in an ASCII locale
        ("a\ud800b", "a\ufffdb"),
        ("a\ud800b\udce9", "a\ufffdb\ufffd"),
        ("\ud83d\ude00", "\ufffd\ufffd"),  # a UTF-16 pair is no character here
        ("one\r\ntwo", "one  two"),
        ("a\0b", "a b"),
        ("\x1b[31mred", "[31mred"),
        ("user\u202egnp.exe", "user gnp.exe"),
        ("a\u2028b\u2029c", "a b c"),
        ("gpu\u200b-01\ufeff", "gpu -01"),
        ("\u3164\u2800", ""),
        ("e\u0301", "e\u0301"),  # combining marks belong to the text
        ("", ""),
        (b"\xff", "\ufffd"),
    ],
)  # fmt: skip
def test_text_is_made_safe(raw: str | bytes, clean: str) -> None:
    assert clean_text(raw) == clean


def test_long_text_is_cut() -> None:
    assert clean_text("é" * 300) == "é" * 255
    assert clean_text("ab" * 10, 5) == "ababa"
    assert clean_text("abcd efgh", 5) == "abcd"
    assert clean_text(" " * 1000 + "late", 5) == "late"


@settings(max_examples=300, deadline=None)
@given(raw=ANY_TEXT | st.binary(max_size=60), limit=st.integers(min_value=1, max_value=40))
def test_clean_text_is_sendable_bounded_and_stable(raw: str | bytes, limit: int) -> None:
    clean = clean_text(raw, limit)

    assert len(clean) <= limit
    assert clean.encode().decode() == clean
    assert not {unicodedata.category(c) for c in clean} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert clean_text(clean, limit) == clean
    assert clean == clean.strip()


@pytest.mark.parametrize(
    "raw",
    [
        "4c4c4544-0039-5310-8052-b4c04f4e3332",
        "4C4C4544-0039-5310-8052-B4C04F4E3332",
        " 4c4c4544-0039-5310-8052-b4c04f4e3332\n",
    ],
)
def test_hardware_uuids_take_one_form(raw: str) -> None:
    assert hardware_uuid(raw) == "4c4c4544-0039-5310-8052-b4c04f4e3332"


@pytest.mark.parametrize(
    "raw",
    [
        None,
        "",
        "Not Settable",
        "To Be Filled By O.E.M.",
        "00000000-0000-0000-0000-000000000000",
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
        "03000200-0400-0500-0006-000700080009",
        "77777777-7777-7777-7777-777777777777",
        "4c4c4544003953108052b4c04f4e3332",
        "4c4c4544-0039-5310-8052-b4c04f4e333",
        "4c4c4544-0039-5310-8052-b4c04f4e333٣",
    ],
)
def test_what_identifies_no_hardware(raw: str | None) -> None:
    assert hardware_uuid(raw) is None


def test_shorten_says_how_much_there_was() -> None:
    assert shorten("x" * 80) == "x" * 80
    assert re.fullmatch(r"x{80}… \(81 characters\)", shorten("x" * 81))
