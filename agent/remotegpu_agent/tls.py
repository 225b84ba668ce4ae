"""TLS towards the control plane: verified, always."""

import ssl
from pathlib import Path

from remotegpu_agent.errors import SettingError


def client_context(ca_file: str | None) -> ssl.SSLContext:
    """A context that trusts the system's authorities or, instead, those of `ca_file` (PEM).

    Raises:
        SettingError: the file cannot be read or holds no certificate.
    """
    if ca_file is not None and not Path(ca_file).is_file():
        raise SettingError(f"The CA file {ca_file} is not there or not readable.")
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (ssl.SSLError, OSError) as error:
        reason = error.strerror or type(error).__name__
        raise SettingError(
            f"The CA file {ca_file} cannot be used: {reason}. Expected PEM certificates."
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
