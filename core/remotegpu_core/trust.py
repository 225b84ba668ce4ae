"""Whom connections that the control plane opens with TLS trust, in one place."""

import os
import ssl
from pathlib import Path
from typing import Final

from remotegpu_core.errors import InvalidInput

#: By which AWS's own programs name their authorities; taken for S3 alone, as they do.
_AWS_BUNDLE: Final = "AWS_CA_BUNDLE"


def client_context(ca_file: Path | None, *, check_hostname: bool = True) -> ssl.SSLContext:
    """Trusts the system's authorities, or those of SSL_CERT_FILE and SSL_CERT_DIR in their place,
    and beside them those in `ca_file` (PEM).

    Raises:
        InvalidInput: the file cannot be read or holds no certificate.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = check_hostname
    if ca_file is not None:
        _add(context, ca_file, "REMOTEGPU_CA_FILE")
    return context


def bucket_context(ca_file: Path | None) -> ssl.SSLContext:
    """The same for S3, with the authorities in the file that AWS_CA_BUNDLE names besides; raises
    as `client_context`."""
    context = client_context(ca_file)
    bundle = os.environ.get(_AWS_BUNDLE)
    if bundle:
        _add(context, Path(bundle), _AWS_BUNDLE)
    return context


def check(ca_file: Path | None) -> None:
    """Try the files that are named; the system's own need no look, which takes 70 ms.

    Raises:
        InvalidInput: as `bucket_context`.
    """
    if ca_file is not None or os.environ.get(_AWS_BUNDLE):
        bucket_context(ca_file)


def _add(context: ssl.SSLContext, file: Path, variable: str) -> None:
    try:
        context.load_verify_locations(file)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(
            f"{variable} names {file}, which cannot be used: {error.strerror or error}. Expected a "
            "file with PEM certificates of authorities."
        ) from None
