"""SSH public keys as `authorized_keys` takes them, checked on both ends.

OpenSSH's formats: a line is `type base64 comment`; the base64 holds length-prefixed fields (RFC 4253,
section 6.6, RFC 5656, RFC 8709, and PROTOCOL.u2f for keys in hardware).
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from remotegpu_protocol.errors import InvalidValue
from remotegpu_protocol.grammar import clean_text, shorten
from remotegpu_protocol.pasted_keys import (
    ENDS_OF_LINES,
    hidden_character,
    other_format,
    private_key_advice,
    unwrapped,
    without_mark,
)

#: Characters of a line: an RSA key of 16384 bits has about 2,800.
MAX_LINE: Final = 8192
MAX_COMMENT: Final = 255
#: Bits of an RSA key, at least, as GitHub and NIST have it (SP 800-131A: until 2030); those that are good
#: beyond that; and what OpenSSH takes at most.
MIN_RSA_BITS: Final = 2048
GOOD_RSA_BITS: Final = 3072
MAX_RSA_BITS: Final = 16384

_CURVES: Final[Mapping[str, ec.EllipticCurve]] = {
    "nistp256": ec.SECP256R1(),
    "nistp384": ec.SECP384R1(),
    "nistp521": ec.SECP521R1(),
}
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_WORD: Final = re.compile(r"[A-Za-z0-9@.+-]+")
_ACCEPTED: Final = "ed25519, ecdsa, RSA of 2048 bits or more, or one of these in hardware (sk-)"


class KeyProblem(StrEnum):
    """Why a key is refused."""

    MALFORMED = "MALFORMED"
    #: Several lines: one key at a time.
    SEVERAL = "SEVERAL"
    PRIVATE = "PRIVATE"
    CERTIFICATE = "CERTIFICATE"
    OPTIONS = "OPTIONS"
    #: DSS, or an RSA key that is too short.
    WEAK = "WEAK"
    UNSUPPORTED = "UNSUPPORTED"
    #: The name in front is not the type of the key behind it.
    MISMATCHED = "MISMATCHED"


class InvalidPublicKey(InvalidValue):
    """`problem` says which kind of refusal it is."""

    def __init__(self, problem: KeyProblem, message: str) -> None:
        super().__init__(message)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that signs in. `comment` is for people, and never written on a host."""

    algorithm: str
    blob: bytes
    comment: str = ""

    @property
    def line(self) -> str:
        """Type and base64, as a line of `authorized_keys`."""
        return f"{self.algorithm} {base64.b64encode(self.blob).decode()}"

    @property
    def rsa_bits(self) -> int | None:
        """None where it is no RSA key."""
        if self.algorithm != "ssh-rsa":
            return None
        fields = _Fields(self.blob)
        fields.take()
        fields.take()
        return fields.integer().bit_length()

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` shows it."""
        digest = hashlib.sha256(self.blob).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def parse_public_key(text: str) -> PublicKey:
    """The key in what somebody pasted: one line of a `.pub` file.

    Raises:
        InvalidPublicKey: it is none that may be used; `problem` says why.
    """
    text = without_mark(text)
    private = private_key_advice(text)
    if private is not None:
        raise InvalidPublicKey(KeyProblem.PRIVATE, private)
    converted = other_format(text)
    if converted is not None:
        raise _malformed(converted)
    lines = [line for line in ENDS_OF_LINES.split(text) if line.strip()]
    if len(lines) > 1:
        raise _several(text, len(lines))
    words = lines[0].strip().split(None, 2) if lines else []
    if len(text) > MAX_LINE or len(words) < 2:
        raise _malformed(
            f"Expected a line such as 'ssh-ed25519 AAAA... name', of at most {MAX_LINE} "
            f"characters; got {_shown(text)}."
        )
    name, encoded = words[0], words[1]
    _check_name(name, encoded)
    blob = _decode(encoded)
    _check_blob(name, blob)
    comment = clean_text(words[2], MAX_COMMENT) if len(words) == 3 else ""
    return PublicKey(name, blob, comment)


def check_key_line(line: str) -> str:
    """Return `line` when it is a key's type and base64 and nothing else.

    Raises:
        InvalidPublicKey: it is anything else.
    """
    key = parse_public_key(line)
    if key.line != line:
        raise _malformed("Expected the type and the base64 of a key, and nothing else.")
    return line


def _check_name(name: str, encoded: str) -> None:
    """Refuse what is no plain key, by its first words."""
    if "-cert-v0" in name:
        raise InvalidPublicKey(
            KeyProblem.CERTIFICATE,
            "This is a certificate. Expected the public key itself: the file without -cert.",
        )
    if name in _READERS:
        return
    if name == "ssh-dss":
        raise InvalidPublicKey(
            KeyProblem.WEAK, f"DSS keys are not safe any more. Make one of {_ACCEPTED}."
        )
    # Options come first in a line, with a key behind them somewhere.
    if "=" in name or "," in name or any(word in _READERS for word in encoded.split()):
        raise InvalidPublicKey(
            KeyProblem.OPTIONS,
            "Options in front of a key are not taken. Expected the type of the key first, such as "
            f"ssh-ed25519; got {shorten(clean_text(name), 40)!r}.",
        )
    if _WORD.fullmatch(name) and _BASE64.fullmatch(encoded) and encoded.startswith("AAAA"):
        raise InvalidPublicKey(
            KeyProblem.UNSUPPORTED,
            f"Keys of type {shorten(name, 40)!r} are not taken. Expected {_ACCEPTED}.",
        )
    raise _malformed(f"Expected the type of a key first, such as ssh-ed25519; got {_shown(name)}.")


def _decode(encoded: str) -> bytes:
    try:
        blob = base64.b64decode(encoded, validate=True) if encoded.isascii() else b""
    except binascii.Error:
        blob = b""
    # One key has one text: what decodes alike but is spelt differently is not it.
    if not blob or base64.b64encode(blob).decode() != encoded:
        hidden = hidden_character(encoded)
        found = "" if hidden is None else f" It holds the character {hidden}."
        raise _malformed(
            f"The second word is not the base64 of a key: was the line cut off?{found}"
        )
    return blob


def _check_blob(name: str, blob: bytes) -> None:
    fields = _Fields(blob)
    inside = fields.take()
    if inside != name.encode():
        told = clean_text(inside, 40)
        raise InvalidPublicKey(
            KeyProblem.MISMATCHED,
            f"The line says {name}, the key inside says {told!r}. Copy the line as it was made.",
        )
    _READERS[name](fields)
    fields.end()


class _Fields:
    """Takes length-prefixed fields off a key."""

    def __init__(self, blob: bytes) -> None:
        self._rest = blob

    def take(self) -> bytes:
        length = int.from_bytes(self._rest[:4], "big")
        if len(self._rest) < 4 or len(self._rest) - 4 < length:
            raise _malformed("The key ends in the middle: was the line cut off?")
        found, self._rest = self._rest[4 : 4 + length], self._rest[4 + length :]
        return found

    def integer(self) -> int:
        """A positive number in its shortest form."""
        raw = self.take()
        value = int.from_bytes(raw, "big")
        if value == 0 or raw[0] & 0x80 or len(raw) != value.bit_length() // 8 + 1:
            raise _malformed("A number in the key is not written as OpenSSH does.")
        return value

    def end(self) -> None:
        if self._rest:
            raise _malformed(f"{len(self._rest)} bytes follow the end of the key.")


def _ed25519(fields: _Fields) -> None:
    if len(fields.take()) != 32:
        raise _malformed("An ed25519 key has 32 bytes.")


def _ecdsa(curve: str) -> Callable[[_Fields], None]:
    def read(fields: _Fields) -> None:
        if fields.take() != curve.encode():
            raise InvalidPublicKey(
                KeyProblem.MISMATCHED, f"The key is not on the curve {curve}, as its type says."
            )
        point = fields.take()
        try:
            if point[:1] != b"\x04":
                raise ValueError
            ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[curve], point)
        except ValueError:
            raise _malformed(f"The key is no point of {curve}.") from None

    return read


def _rsa(fields: _Fields) -> None:
    exponent, modulus = fields.integer(), fields.integer()
    bits = modulus.bit_length()
    if bits < MIN_RSA_BITS:
        raise InvalidPublicKey(
            KeyProblem.WEAK,
            f"An RSA key needs {MIN_RSA_BITS} bits at least; this one has {bits}. Make an ed25519 "
            "key: ssh-keygen -t ed25519",
        )
    if bits > MAX_RSA_BITS or modulus % 2 == 0:
        raise _malformed(f"Expected an odd RSA modulus of at most {MAX_RSA_BITS} bits.")
    if exponent % 2 == 0 or exponent < 3 or exponent.bit_length() > 64:
        raise _malformed("Expected an odd RSA exponent from 3 to 64 bits, such as 65537.")


def _in_hardware(read: Callable[[_Fields], None]) -> Callable[[_Fields], None]:
    def read_both(fields: _Fields) -> None:
        read(fields)
        application = fields.take()
        if not 0 < len(application) <= 255 or not application.isascii():
            raise _malformed("A key in hardware names its application, such as ssh:.")

    return read_both


def _several(text: str, count: int) -> InvalidPublicKey:
    """Several keys, or one that was wrapped."""
    try:
        parse_public_key(unwrapped(text))
    except InvalidPublicKey:
        return InvalidPublicKey(
            KeyProblem.SEVERAL, f"Expected one key on one line, got {count} lines."
        )
    return InvalidPublicKey(
        KeyProblem.SEVERAL,
        f"This is one key that was wrapped over {count} lines. Expected it on one line, as "
        "`tr -d '\\r\\n' <FILE` prints it.",
    )


def _shown(text: str) -> str:
    """As it stands in a message, which shows what cannot be seen by its number."""
    hidden = hidden_character(text)
    shown = repr(shorten(clean_text(text), 40))
    return shown if hidden is None else f"{shown}, which holds the character {hidden}"


def _malformed(message: str) -> InvalidPublicKey:
    return InvalidPublicKey(KeyProblem.MALFORMED, message)


_READERS: Final[Mapping[str, Callable[[_Fields], None]]] = {
    "ssh-ed25519": _ed25519,
    "sk-ssh-ed25519@openssh.com": _in_hardware(_ed25519),
    **{f"ecdsa-sha2-{curve}": _ecdsa(curve) for curve in _CURVES},
    "sk-ecdsa-sha2-nistp256@openssh.com": _in_hardware(_ecdsa("nistp256")),
    "ssh-rsa": _rsa,
}
