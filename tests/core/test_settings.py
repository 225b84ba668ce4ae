from ipaddress import ip_network
from pathlib import Path

import pytest

from remotegpu_core.errors import InvalidInput
from remotegpu_core.settings import Settings, load_settings

SECRET = "S3cret-word-1"


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "remotegpu.toml"
    monkeypatch.setenv("REMOTEGPU_CONFIG", str(path))
    return path


def test_the_defaults_need_nothing() -> None:
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.database_url is None
    assert settings.redis_url is None
    assert settings.sqlite_path == Path(".remotegpu/remotegpu.sqlite3")
    assert settings.origin == "http://127.0.0.1:8000"


def test_the_environment_goes_over_the_file_and_arguments_over_both(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_file.write_text('port = 1001\nhost = "192.0.2.1"\nlog_level = "debug"\n')
    monkeypatch.setenv("REMOTEGPU_PORT", "1002")
    monkeypatch.setenv("REMOTEGPU_HOST", "192.0.2.2")
    settings = load_settings(host="192.0.2.3")
    assert (settings.host, settings.port, settings.log_level) == ("192.0.2.3", 1002, "debug")


def test_lists_are_separated_by_commas_or_written_in_toml(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_file.write_text('trusted_proxies = ["192.0.2.1", "192.0.2.2"]\n')
    monkeypatch.setenv("REMOTEGPU_AGENT_URLS", " https://a.example , ,https://b.example")
    settings = load_settings()
    assert settings.trusted_proxies == [ip_network("192.0.2.1"), ip_network("192.0.2.2")]
    assert settings.agent_urls == ["https://a.example", "https://b.example"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "many"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("SESSION_LIFETIME", "1"),
        ("ENROLLMENT_LIFETIME", "0"),
        ("MAX_AGENTS", "0"),
        ("AUDIT_RETENTION_DAYS", "0"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_a_wrong_value_is_named_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"REMOTEGPU_{name}", value)
    with pytest.raises(InvalidInput, match=f"REMOTEGPU_{name}") as caught:
        load_settings()
    assert value not in caught.value.message.replace(name, "").split()


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOTEGPU_PORT", "many")
    monkeypatch.setenv("REMOTEGPU_MAX_AGENTS", "none")
    with pytest.raises(InvalidInput, match=r"REMOTEGPU_PORT.*REMOTEGPU_MAX_AGENTS"):
        load_settings()


@pytest.mark.parametrize("variable", ["REMOTEGPU_PUBLIC_URL", "REMOTEGPU_AGENT_URLS"])
@pytest.mark.parametrize(
    "url", ["nonsense", "ftp://gpu.example", f"https://me:{SECRET}@gpu.example", "https://[::1"]
)
def test_a_wrong_address_is_explained(
    monkeypatch: pytest.MonkeyPatch, variable: str, url: str
) -> None:
    monkeypatch.setenv(variable, url)
    with pytest.raises(InvalidInput, match=f"The settings do not hold: {variable}") as caught:
        load_settings()
    assert SECRET not in caught.value.message


def test_a_file_that_is_not_there(config_file: Path) -> None:
    with pytest.raises(InvalidInput, match=r"REMOTEGPU_CONFIG names .* no file"):
        load_settings()
    config_file.mkdir()
    with pytest.raises(InvalidInput, match=r"REMOTEGPU_CONFIG names .* no file"):
        load_settings()


@pytest.mark.parametrize("content", [b"port = ", b'admin_password = "S3cret-word-1', b"\xff\xfe"])
def test_a_file_that_is_no_toml(config_file: Path, content: bytes) -> None:
    config_file.write_bytes(content)
    with pytest.raises(InvalidInput, match="is not valid TOML") as caught:
        load_settings()
    assert SECRET not in caught.value.message


def test_a_wrong_value_in_the_file_is_named(config_file: Path) -> None:
    config_file.write_text("port = 'many'\n")
    with pytest.raises(InvalidInput, match="REMOTEGPU_PORT"):
        load_settings()


def test_a_secret_of_the_wrong_type_is_not_repeated(config_file: Path) -> None:
    config_file.write_text(f'admin_password = ["{SECRET}"]\nredis_url = ["{SECRET}"]\n')
    with pytest.raises(InvalidInput, match="REMOTEGPU_ADMIN_PASSWORD") as caught:
        load_settings()
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value.__cause__)


def test_shown_settings_hold_no_secret() -> None:
    settings = load_settings(
        admin_password=SECRET,
        database_url=f"postgres://me:{SECRET}@h/db",
        redis_url=f"redis://:{SECRET}@h",
    )
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ({"public_url": "HTTPS://GPU.Example.org:443/"}, "https://gpu.example.org"),
        ({"public_url": "wss://gpu.example.org"}, "https://gpu.example.org"),
        ({"public_url": "http://gpu.example.org:80"}, "http://gpu.example.org"),
        ({"host": "0.0.0.0", "port": 9}, "http://127.0.0.1:9"),  # noqa: S104 - nothing is bound
        ({"host": "::", "port": 9}, "http://127.0.0.1:9"),
        ({"host": "::1", "port": 9}, "http://[::1]:9"),
        ({"host": "2001:DB8:0::1", "port": 80}, "http://[2001:db8::1]"),
    ],
)
def test_the_origin_has_one_spelling(given: dict[str, object], origin: str) -> None:
    assert load_settings(**given).origin == origin


def test_agents_may_dial_the_public_address_and_the_further_ones() -> None:
    settings = load_settings(
        public_url="https://gpu.example", agent_urls="wss://inside.example:443,http://10.0.0.1:8000"
    )
    assert settings.agent_origins == {
        "https://gpu.example",
        "https://inside.example",
        "http://10.0.0.1:8000",
    }


@pytest.mark.parametrize("wrong", ["*", "s3://*", "s3://", "*:/x", "/srv/*", "nas"])
def test_what_is_opened_to_users_is_a_place(wrong: str) -> None:
    good = "s3://open-*, nas-1.example.org:/export/*"
    assert load_settings(dataset_sources=good).dataset_sources == good.split(", ")
    with pytest.raises(InvalidInput, match=r"REMOTEGPU_DATASET_SOURCES: .*HOST:/EXPORT"):
        load_settings(dataset_sources=f"{good},{wrong}")


OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def test_every_setting_is_documented_and_every_limit_with_its_default() -> None:
    for name, field in Settings.model_fields.items():
        variable = f"`REMOTEGPU_{name.upper()}`"
        assert variable in OPERATIONS, variable
        if "max_" in name or "rate_" in name:
            assert f"| {variable} | {field.default} |" in OPERATIONS, variable


@pytest.mark.parametrize(
    "wrong",
    ["*", "null", "https://", "https://a.example/path", "https://*.example", "a.example", "file://",
     "https://me:S3cret-word-1@a.example", "wss://a.example", "https://a.example?x"],
)  # fmt: skip
def test_an_origin_is_one_pages_and_no_more(wrong: str) -> None:
    good = load_settings(allowed_origins="HTTPS://A.example:443/, altair://-,http://localhost:5173")
    assert good.allowed_origins == ["https://a.example", "altair://-", "http://localhost:5173"]
    with pytest.raises(InvalidInput, match="REMOTEGPU_ALLOWED_ORIGINS") as caught:
        load_settings(allowed_origins=f"https://b.example,{wrong}")
    assert SECRET not in caught.value.message
