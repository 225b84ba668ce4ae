"""Keys in other formats than a line of `authorized_keys`, told by the text as it was pasted, each with the
command that prints the line."""

import re
from typing import Final

#: What a text in such a format holds, and how its owner gets the line; the first that fits counts.
_PUBLIC: Final = (
    ("---- BEGIN SSH2 PUBLIC KEY", "RFC 4716 (ssh.com, PuTTY)", "ssh-keygen -i -f FILE"),
    ("-----BEGIN RSA PUBLIC KEY", "PEM (PKCS #1)", "ssh-keygen -i -m PEM -f FILE"),
    ("-----BEGIN PUBLIC KEY", "PEM (PKCS #8)", "ssh-keygen -i -m PKCS8 -f FILE"),
    (
        "-----BEGIN CERTIFICATE",
        "an X.509 certificate",
        "openssl x509 -in FILE -noout -pubkey | ssh-keygen -i -m PKCS8 -f /dev/stdin",
    ),
)
_PUTTY: Final = "PuTTY-User-Key-File-"
_BYTE_ORDER_MARK: Final = "\ufeff"
#: What any program takes for the end of a line.
ENDS_OF_LINES: Final = re.compile(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")


def without_mark(text: str) -> str:
    """The text without the mark that editors of Windows put in front."""
    return text.removeprefix(_BYTE_ORDER_MARK)


def private_key_advice(text: str) -> str | None:
    """What to do where the text is a private key, which PuTTY's files always hold."""
    if _PUTTY in text:
        show = "puttygen FILE -O public-openssh"
    elif "PRIVATE KEY" in text:
        show = "ssh-keygen -y -f FILE"
    else:
        return None
    return (
        "This is a private key: show it to nobody, and if this was no mistake of the eye, make a new "
        f"pair with `ssh-keygen -t ed25519`. The public line of a private key is printed by `{show}`."
    )


def other_format(text: str) -> str | None:
    """How to convert the text, where it is a public key in another format."""
    for mark, name, command in _PUBLIC:
        if mark in text:
            return (
                f"This is a key in the format {name}. Expected the line that `{command}` prints, "
                "where FILE holds what was pasted."
            )
    if "\0" in text:
        return (
            "This is UTF-16, as PowerShell writes files. Expected the line that "
            "`iconv -f UTF-16 -t UTF-8 FILE` prints."
        )
    return None


def unwrapped(text: str) -> str:
    """What a key that was wrapped over several lines was before."""
    return ENDS_OF_LINES.sub("", text.strip())


def hidden_character(text: str) -> str | None:
    """The first character that no key has and that people hardly see, by its number."""
    for character in text:
        if not (character.isascii() and (character.isprintable() or character in "\t\r\n")):
            return f"U+{ord(character):04X}"
    return None
