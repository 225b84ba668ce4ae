"""Public keys against what OpenSSH's own programs make and say."""

import base64
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.ssh_keys import (
    InvalidPublicKey,
    KeyProblem,
    PublicKey,
    check_key_line,
    parse_public_key,
)


def _generate(directory: Path, *options: str) -> str:
    path = directory / "key"
    command = ["ssh-keygen", "-q", "-N", "", "-C", "ada@lab", "-f", str(path), *options]
    subprocess.run(command, check=True, timeout=60)
    return path.with_suffix(".pub").read_text()


def _told(directory: Path, line: str) -> str:
    """What `ssh-keygen -l` calls the key."""
    path = directory / "told.pub"
    path.write_text(line + "\n")
    found = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(path)],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    return found.stdout.split()[1]


def _packed(*fields: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


def _line(name: str, *fields: bytes) -> str:
    return f"{name} {base64.b64encode(_packed(*fields)).decode()}"


SK = "sk-ssh-ed25519@openssh.com"
ED25519 = _line("ssh-ed25519", b"ssh-ed25519", bytes(range(32)))
IN_HARDWARE = _line(SK, SK.encode(), bytes(range(32)), b"ssh:")
_ENCODED = ED25519.split()[1]
_SHORT_RSA = _line("ssh-rsa", b"ssh-rsa", b"\x01\x00\x01", b"\x00" + b"\xff" * 128)


@pytest.mark.parametrize(
    "options",
    [
        ("-t", "ed25519"),
        ("-t", "ecdsa", "-b", "256"),
        ("-t", "ecdsa", "-b", "384"),
        ("-t", "ecdsa", "-b", "521"),
        ("-t", "rsa", "-b", "2048"),
    ],
)
def test_keys_that_openssh_makes(tmp_path: Path, options: tuple[str, ...]) -> None:
    made = _generate(tmp_path, *options)
    key = parse_public_key(made)
    assert key.line == " ".join(made.split()[:2])
    assert key.algorithm == made.split()[0]
    assert key.comment == "ada@lab"
    assert key.fingerprint == _told(tmp_path, key.line)
    assert check_key_line(key.line) == key.line


def test_keys_in_hardware(tmp_path: Path) -> None:
    assert parse_public_key(IN_HARDWARE).fingerprint == _told(tmp_path, IN_HARDWARE)
    point = base64.b64decode(_generate(tmp_path, "-t", "ecdsa").split()[1])[-65:]
    name = "sk-ecdsa-sha2-nistp256@openssh.com"
    line = _line(name, name.encode(), b"nistp256", point, b"ssh:")
    assert parse_public_key(line).fingerprint == _told(tmp_path, line)


def test_a_short_rsa_key_is_weak(tmp_path: Path) -> None:
    with pytest.raises(InvalidPublicKey, match="1024") as caught:
        parse_public_key(_generate(tmp_path, "-t", "rsa", "-b", "1024"))
    assert caught.value.problem is KeyProblem.WEAK


def test_bits_of_an_rsa_key() -> None:
    modulus = b"\x00" + b"\xff" * 256
    key = parse_public_key(_line("ssh-rsa", b"ssh-rsa", b"\x01\x00\x01", modulus))
    assert key.rsa_bits == 2048
    assert parse_public_key(ED25519).rsa_bits is None


@pytest.mark.parametrize("form", ["RFC4716", "PKCS8", "PEM"])
def test_other_formats_name_the_command_that_converts_them(tmp_path: Path, form: str) -> None:
    """As OpenSSH writes them, and the command gives the line that is taken."""
    line = _generate(tmp_path, "-t", "rsa", "-b", "2048").rsplit(" ", 1)[0]
    exported = subprocess.run(
        ["ssh-keygen", "-e", "-m", form, "-f", tmp_path / "key.pub"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    with pytest.raises(InvalidPublicKey) as caught:
        parse_public_key(exported)
    assert caught.value.problem is KeyProblem.MALFORMED
    (tmp_path / "FILE").write_text(exported)
    assert _done(tmp_path, caught.value.message) == line


def _done(directory: Path, message: str) -> str:
    """What the command in a message prints, in the folder where FILE is."""
    command = message.split("`")[1]
    return subprocess.run(
        ["sh", "-c", command], check=True, capture_output=True, text=True, cwd=directory
    ).stdout.strip()


def test_private_keys_in_all_forms(tmp_path: Path) -> None:
    _generate(tmp_path, "-t", "ed25519")
    for text in (
        (tmp_path / "key").read_text(),
        "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nPublic-Lines: 2\n",
        "---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\n",
    ):
        with pytest.raises(InvalidPublicKey, match="show it to nobody") as caught:
            parse_public_key(text)
        assert caught.value.problem is KeyProblem.PRIVATE
        assert ("puttygen FILE -O public-openssh" in caught.value.message) == ("PuTTY" in text)


def test_what_editors_and_terminals_add(tmp_path: Path) -> None:
    for text in (f"\ufeff{ED25519}\r\n", f"{ED25519} ada\r\n\r\n", f"\ufeff  {ED25519}"):
        assert parse_public_key(text).line == ED25519
    wrapped = f"{ED25519[:40]}\r\n{ED25519[40:]}\r\n"
    with pytest.raises(InvalidPublicKey, match="wrapped over 2 lines") as caught:
        parse_public_key(wrapped)
    assert caught.value.problem is KeyProblem.SEVERAL
    (tmp_path / "FILE").write_bytes(wrapped.encode())
    assert _done(tmp_path, caught.value.message) == ED25519
    with pytest.raises(InvalidPublicKey, match="iconv"):
        parse_public_key(ED25519.encode("utf-16-le").decode("latin-1"))
    # What cannot be seen is named, where a cleaned text would look right.
    with pytest.raises(InvalidPublicKey, match=r"U\+200B"):
        parse_public_key(f"\u200b{ED25519}")
    with pytest.raises(InvalidPublicKey, match=r"U\+00AD"):
        parse_public_key(f"{ED25519[:30]}\u00ad{ED25519[30:]}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", KeyProblem.MALFORMED),
        ("\n", KeyProblem.MALFORMED),
        ("ssh-ed25519", KeyProblem.MALFORMED),
        ("hello world", KeyProblem.MALFORMED),
        (f"ssh-ed25519 {_ENCODED[:-4]}", KeyProblem.MALFORMED),
        (f"ssh-ed25519 {_ENCODED}=", KeyProblem.MALFORMED),
        (f"ssh-ed25519 {_ENCODED[:20]} {_ENCODED[20:]}", KeyProblem.MALFORMED),
        (f"ssh-ed25519 !{_ENCODED}", KeyProblem.MALFORMED),
        ("ssh-ed25519 é", KeyProblem.MALFORMED),
        (_line("ssh-ed25519", b"ssh-ed25519", bytes(31)), KeyProblem.MALFORMED),
        (_line("ssh-ed25519", b"ssh-ed25519", bytes(32), b""), KeyProblem.MALFORMED),
        (_line(SK, SK.encode(), bytes(32)), KeyProblem.MALFORMED),
        (_line(SK, SK.encode(), bytes(32), b""), KeyProblem.MALFORMED),
        (_line("ssh-rsa", b"ssh-rsa", b"\x01\x00\x01", b"\xff" * 512), KeyProblem.MALFORMED),
        (
            _line("ssh-rsa", b"ssh-rsa", b"\x01", b"\x00" + b"\xff" * 512),
            KeyProblem.MALFORMED,
        ),
        (
            _line("ssh-rsa", b"ssh-rsa", b"\x01\x00\x01", b"\x00" + b"\xff" * 4096),
            KeyProblem.MALFORMED,
        ),
        (
            _line(
                *("ecdsa-sha2-nistp256", b"ecdsa-sha2-nistp256", b"nistp256"),
                b"\x04" + bytes(range(64)),
            ),
            KeyProblem.MALFORMED,
        ),
        (ED25519 + " " + "x" * 9000, KeyProblem.MALFORMED),
        (f"{ED25519}\n{ED25519}", KeyProblem.SEVERAL),
        (f"{ED25519} a\r{ED25519}", KeyProblem.SEVERAL),
        (f"{ED25519} a\u2028{ED25519}", KeyProblem.SEVERAL),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n", KeyProblem.PRIVATE),
        ("-----BEGIN RSA PRIVATE KEY-----", KeyProblem.PRIVATE),
        (f"ssh-ed25519-cert-v01@openssh.com {_ENCODED}", KeyProblem.CERTIFICATE),
        (f'command="/bin/sh" {ED25519}', KeyProblem.OPTIONS),
        (f'command="a b c" {ED25519}', KeyProblem.OPTIONS),
        (f"no-pty {ED25519}", KeyProblem.OPTIONS),
        (f"no-pty,permitopen=1 {ED25519}", KeyProblem.OPTIONS),
        (_line("ssh-dss", b"ssh-dss", b"1"), KeyProblem.WEAK),
        (_SHORT_RSA, KeyProblem.WEAK),
        (_line("ssh-ed448", b"ssh-ed448", bytes(57)), KeyProblem.UNSUPPORTED),
        (f"ssh-rsa {_ENCODED}", KeyProblem.MISMATCHED),
        (
            _line("ecdsa-sha2-nistp256", b"ecdsa-sha2-nistp256", b"nistp384", b"\x04"),
            KeyProblem.MISMATCHED,
        ),
    ],
)
def test_what_is_refused(text: str, problem: KeyProblem) -> None:
    with pytest.raises(InvalidPublicKey) as caught:
        parse_public_key(text)
    assert caught.value.problem is problem
    assert caught.value.message.isprintable()


def test_the_line_of_an_account_is_a_key_and_nothing_else() -> None:
    for line in (f"{ED25519} ada", f" {ED25519}", f"{ED25519}\n", ED25519.replace(" ", "  ")):
        with pytest.raises(InvalidPublicKey):
            check_key_line(line)


@example("ssh-ed25519 " + _ENCODED + " $(touch /tmp/x)\x00\u202e`id`")
@given(
    st.one_of(
        st.text(max_size=200),
        st.text(max_size=60).map(lambda comment: f"{ED25519} {comment}"),
        st.text(max_size=20).map(lambda front: f"{front} {ED25519}"),
        st.binary(max_size=120).map(lambda blob: f"ssh-ed25519 {base64.b64encode(blob).decode()}"),
    )
)
def test_whatever_comes_is_refused_or_clean(text: str) -> None:
    try:
        key = parse_public_key(text)
    except InvalidPublicKey:
        return
    assert isinstance(key, PublicKey)
    assert key.comment == clean_text(key.comment)
    assert check_key_line(key.line) == key.line
    assert len(key.line.split()) == 2
    assert key.line.isascii()
