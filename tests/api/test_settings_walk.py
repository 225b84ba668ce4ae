"""Every setting with values that mean nothing: the start is refused, and the setting is named."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from remotegpu_api.server import running
from remotegpu_core.errors import RemoteGPUError
from remotegpu_core.settings import Settings, load_settings
from tests.services.ports import unused_port

_COUNT = ("many", "-1", "1.5")
_URL = ("gpu.example.org", "ftp://gpu.example.org", "https://gpu.example.org/below")
_NETWORK = ("not an address", "10.0.0.5/8", "10.0.0.0/33", "gpu.example.org", "10.0.0.1:80", "*")

NONSENSE: dict[str, Sequence[str]] = {
    "host": ("no such host", "203.0.113.1"),
    "port": (*_COUNT, "65536"),
    "public_url": _URL,
    "allowed_origins": (*_URL, "*", "null", "https://a.example, *"),
    "agent_urls": (*_URL, "https://a.example, nonsense"),
    "data_dir": ("/dev/null/x", "/proc/nowhere"),
    "database_url": ("nonsense", "mysql://localhost/x", "postgres://localhost"),
    "redis_url": ("nonsense", "http://localhost"),
    "admin_password": ("short", "aaaaaaaaaaaa"),
    "tls_certificate": ("/nowhere.pem",),
    "tls_key": ("/nowhere.pem",),
    "ca_file": ("/nowhere.pem", "/dev/null"),
    "session_lifetime": (*_COUNT, "59", "1e30", "9" * 30),
    "enrollment_lifetime": (*_COUNT, "0", "9" * 30),
    "trusted_proxies": (*_NETWORK, "0.0.0.0/0", "10.0.0.1, ::/0", "localhost, nonsense"),
    "frame_path": ("nonsense",),
    "audit_retention_days": (*_COUNT, "0", "9" * 30),
    "max_allocation_days": (*_COUNT, "0", "9" * 30),
    "allocation_warnings": (*_COUNT, "9" * 30, ",".join(map(str, range(1, 20)))),
    "quota_gpus": (*_COUNT, "9" * 30),
    "quota_allocations": (*_COUNT, "9" * 30),
    "quota_gpu_hours": (*_COUNT, "9" * 30),
    "ssh_rsa_bits": (*_COUNT, "1", "9" * 30),
    "s3_credentials": ("/nowhere.toml", "/dev/null", "/etc/passwd"),
    "s3_allow_link_local": ("nonsense",),
    "dataset_sources": ("nonsense", "s3://*"),
    "metrics_token": ("short", "with spaces in between it"),
    "metrics_allow": _NETWORK,
    "log_level": ("loud",),
    "log_format": ("xml",),
    # Settings that do not exist.
    "trusted_proxy": ("10.0.0.1",),
    "PUBLIC_URI": ("https://gpu.example.org",),
}


def _values(name: str) -> Sequence[str]:
    is_limit = name.startswith("max_") or "rate_" in name
    return NONSENSE[name] if name in NONSENSE or not is_limit else _COUNT


async def test_the_start_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOTEGPU_DATA_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("REMOTEGPU_PORT", str(unused_port()))
    for name in {**Settings.model_fields, **NONSENSE}:
        variable = f"REMOTEGPU_{name.upper()}"
        for value in _values(name):
            with monkeypatch.context() as changed:
                changed.setenv(variable, value)
                with pytest.raises(RemoteGPUError, match=variable):
                    async with running(load_settings()):
                        pytest.fail(f"{variable}={value} was taken")


async def test_nothing_in_a_file_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "remotegpu.toml"
    monkeypatch.setenv("REMOTEGPU_CONFIG", str(file))
    for line, named in (
        ('trusted_proxy = "10.0.0.1"', "TRUSTED_PROXY: .* write REMOTEGPU_TRUSTED_PROXIES"),
        ("[server]\nport = 1", "SERVER: there is no such setting"),
        ("trusted_proxies = [1]", "TRUSTED_PROXIES: .*10.1.0.0/16"),
        ("trusted_proxies = 1", "TRUSTED_PROXIES: .*10.1.0.0/16"),
    ):
        file.write_text(line)
        with pytest.raises(RemoteGPUError, match=f"REMOTEGPU_{named}"):
            load_settings()
