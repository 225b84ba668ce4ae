"""Settings of the control plane: REMOTEGPU_* environment variables over a TOML file."""

import difflib
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from remotegpu_core.errors import InvalidInput
from remotegpu_core.networks import IPNetwork, parse_networks
from remotegpu_core.page_origin import page_origin
from remotegpu_core.passwords import check_password_rules
from remotegpu_protocol.errors import InvalidValue
from remotegpu_protocol.grammar import shorten
from remotegpu_protocol.origin import normalise_origin
from remotegpu_protocol.ssh_keys import MAX_RSA_BITS, MIN_RSA_BITS

#: Names the TOML file that the environment overrides.
CONFIG_VARIABLE = "REMOTEGPU_CONFIG"

_PREFIX = "REMOTEGPU_"
#: What other programs read: the agent, and the one that starts the control plane.
_OTHERS = re.compile(r"REMOTEGPU_(?:AGENT_\w+|ENROLL_TOKEN|CONFIG)")
_SOURCE = re.compile(r"s3://[a-z0-9]|[A-Za-z0-9][A-Za-z0-9.-]*:/(?!/)")
_TOKEN = re.compile(r"[!-~]{16,}")


class Settings(BaseSettings):
    """Everything that an operator can set. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on.")
    public_url: str | None = Field(
        None, description="The address that users and agents reach this control plane by."
    )
    agent_urls: Annotated[list[str], NoDecode] = Field(
        [], description="Further addresses that agents may dial, separated by commas."
    )
    allowed_origins: Annotated[list[str], NoDecode] = Field(
        [],
        description="Origins of further web pages that may use /graphql, with a token of their "
        "own, separated by commas.",
    )
    data_dir: Path = Field(
        Path(".remotegpu"), description="Where the SQLite file and other state is kept."
    )
    # Both may hold a password, so neither is shown with the settings.
    database_url: str | None = Field(
        None,
        repr=False,
        description="postgres://user:password@host:port/name; SQLite in data_dir without.",
    )
    redis_url: str | None = Field(
        None, repr=False, description="redis://host:port/0 of Redis or Valkey; in-process without."
    )
    admin_password: SecretStr | None = Field(
        None, description="Password of the first user, `admin`; made up and shown once without."
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file with the certificate chain; plain HTTP without."
    )
    tls_key: Path | None = Field(None, description="PEM file with the certificate's key.")
    ca_file: Path | None = Field(
        None,
        description="PEM file with authorities that are trusted beside the system's, by every "
        "connection that the control plane opens.",
    )
    session_lifetime: int = Field(
        7 * 24 * 3600, ge=60, le=366 * 24 * 3600, description="Of a sign-in."
    )
    enrollment_lifetime: int = Field(600, ge=1, le=86400, description="Of an enrolment token.")
    trusted_proxies: Annotated[list[IPNetwork], NoDecode] = Field(
        [],
        description="Networks whose X-Forwarded-For or Forwarded is believed, separated by commas.",
    )
    max_agents: int = Field(10_000, ge=1, description="Agents that one process serves.")
    max_agents_per_address: int = Field(
        5_000, ge=1, description="Agents that one process serves from one address."
    )
    max_sockets: int = Field(10_000, ge=1, description="Live viewers that one process serves.")
    max_sockets_per_address: int = Field(
        5_000, ge=1, description="Live viewers that one process serves from one address."
    )
    max_sockets_per_user: int = Field(
        2_000, ge=1, description="Live viewers of one user that one process serves."
    )
    max_operations: int = Field(
        50_000, ge=1, description="Operations that run on all live viewers of one process."
    )
    max_requests: int = Field(
        512, ge=1, description="HTTP requests that one process works on at a time."
    )
    max_requests_per_address: int = Field(
        256, ge=1, description="HTTP requests from one address that one process works on."
    )
    rate_requests: int = Field(6_000, ge=0, description="Requests of a user a minute; 0: any.")
    rate_cost: int = Field(
        3_000_000, ge=0, description="Cost of a user's operations a minute; 0: any."
    )
    rate_time: int = Field(
        20,
        ge=0,
        description="Processor time a minute that a user's requests may take before they run; "
        "0: any.",
    )
    anonymous_rate_requests: int = Field(
        600, ge=0, description="Requests a minute of an address without sign-in; 0: any."
    )
    sign_in_rate_requests: int = Field(
        300, ge=0, description="Sign-ins a minute of an address; 0: any."
    )
    anonymous_rate_cost: int = Field(
        60_000, ge=0, description="Cost a minute of an address without sign-in; 0: any."
    )
    anonymous_rate_time: int = Field(
        2,
        ge=0,
        description="Processor time a minute for requests of an address without sign-in; 0: any.",
    )
    frame_path: bool = Field(
        True, description="Write live events to the transport itself where that is safe."
    )
    audit_retention_days: int = Field(
        400, ge=1, le=36_500, description="Age at which audit events go."
    )
    max_allocation_days: int = Field(
        366, ge=1, le=3660, description="How long an allocation may be, and how far ahead begin."
    )
    allocation_warnings: Annotated[list[int], NoDecode] = Field(
        [86_400, 3_600, 600],
        description="Seconds before an allocation's end at which its user is told, separated by "
        "commas.",
    )
    quota_gpus: int | None = Field(
        8,
        ge=0,
        le=1_000_000,
        description="GPUs that a user may have at a time; an admin may set another quota.",
    )
    quota_allocations: int | None = Field(
        4,
        ge=0,
        le=1_000_000,
        description="Allocations that a user may have at a time, reservations included.",
    )
    quota_gpu_hours: int | None = Field(
        None,
        ge=0,
        le=1_000_000_000,
        description="GPU-hours that a user may book in a calendar month; any without.",
    )
    s3_credentials: Path | None = Field(
        None,
        description="TOML file with keys to buckets, which nobody else can read; anonymous without.",
    )
    s3_allow_link_local: bool = Field(
        False, description="Let S3 endpoints have link-local addresses, as metadata services do."
    )
    dataset_sources: Annotated[list[str], NoDecode] = Field(
        [],
        description="Locations that users may register themselves, such as s3://open-*, separated "
        "by commas; admins register any.",
    )
    ssh_rsa_bits: int = Field(
        MIN_RSA_BITS,
        ge=MIN_RSA_BITS,
        le=MAX_RSA_BITS,
        description="Bits that an RSA key of a user has at least.",
    )
    metrics_token: SecretStr | None = Field(
        None, description="Bearer token that lets Prometheus read /metrics."
    )
    metrics_allow: Annotated[list[IPNetwork], NoDecode] = Field(
        [], description="Networks that may read /metrics without the token, separated by commas."
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"

    @field_validator("agent_urls", "allowed_origins", "dataset_sources", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @field_validator("dataset_sources")
    @classmethod
    def _of_sources(cls, value: list[str]) -> list[str]:
        for pattern in value:
            # A pattern of anything else opens nothing, or everything.
            if not _SOURCE.match(pattern):
                raise ValueError(
                    "expected s3://BUCKET or HOST:/EXPORT, where * stands for anything but not for "
                    f"the beginning of BUCKET or for HOST; got {shorten(pattern)!r}"
                )
        return value

    @field_validator("allocation_warnings", mode="before")
    @classmethod
    def _seconds(cls, value: object) -> object:
        return cls._split(value)

    @field_validator("allocation_warnings")
    @classmethod
    def _longest_first(cls, value: list[int]) -> list[int]:
        if any(not 1 <= seconds <= 31_622_400 for seconds in value) or len(value) > 16:
            raise ValueError("expected at most 16 numbers of seconds from 1 to 31622400")
        return sorted(set(value), reverse=True)

    @field_validator("public_url", "agent_urls")
    @classmethod
    def _addresses(cls, value: str | list[str] | None) -> str | list[str] | None:
        for url in [value] if isinstance(value, str) else value or []:
            normalise_origin(url)
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _of_pages(cls, value: list[str]) -> list[str]:
        return [page_origin(origin) for origin in value]

    @field_validator("trusted_proxies", "metrics_allow", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        parts = cls._split(value)
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise ValueError("expected a list of networks such as 10.1.0.0/16 or ::1")
        return [network for part in parts for network in parse_networks(part)]

    @field_validator("trusted_proxies")
    @classmethod
    def _of_proxies(cls, value: list[IPNetwork]) -> list[IPNetwork]:
        if any(network.prefixlen == 0 for network in value):
            raise ValueError(
                "the whole internet cannot be trusted, since every caller could then invent its "
                "address: name the networks that the proxies are in"
            )
        return value

    @field_validator("admin_password")
    @classmethod
    def _good_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                check_password_rules(value.get_secret_value(), username="admin")
            except InvalidInput as error:
                raise ValueError(error.message) from None
        return value

    @field_validator("metrics_token")
    @classmethod
    def _sendable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _TOKEN.fullmatch(value.get_secret_value()):
            raise ValueError(
                "a token has at least 16 ASCII characters without spaces, since it travels in a "
                "header: `openssl rand -hex 32` makes one"
            )
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        sources = [init_settings, env_settings]
        if path := os.environ.get(CONFIG_VARIABLE):
            sources.append(TomlConfigSettingsSource(settings_cls, Path(path)))
        return tuple(sources)

    @cached_property
    def origin(self) -> str:
        """The public address in its one spelling."""
        if self.public_url:
            return normalise_origin(self.public_url)
        host = "127.0.0.1" if self.host in {"0.0.0.0", "::", ""} else self.host  # noqa: S104 - compared, not bound
        shown = f"[{host}]" if ":" in host else host
        scheme = "https" if self.tls_certificate else "http"
        return normalise_origin(f"{scheme}://{shown}:{self.port}")

    @cached_property
    def agent_origins(self) -> frozenset[str]:
        """Every address that an agent may have dialled."""
        return frozenset({self.origin, *(normalise_origin(url) for url in self.agent_urls)})

    @property
    def sqlite_path(self) -> Path:
        return self.data_dir / "remotegpu.sqlite3"


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment, the file and `overrides`, checked.

    Raises:
        InvalidInput: a value is wrong; the message names each and what it should be.
    """
    path = os.environ.get(CONFIG_VARIABLE)
    if path and not Path(path).is_file():
        raise InvalidInput(f"{CONFIG_VARIABLE} names {path}, which is no file.")
    _refuse_unknown_variables()
    try:
        settings = Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks them
        _ = settings.agent_origins
    except ValidationError as error:
        problems = "; ".join(
            f"{_PREFIX}{'.'.join(str(part) for part in item['loc']).upper()}: "
            + (_unknown(str(item["loc"][0])) if item["type"] == "extra_forbidden" else item["msg"])
            for item in error.errors(include_input=False, include_url=False)
        )
        raise InvalidInput(f"The settings do not hold: {problems}.") from None
    except InvalidValue as error:
        # The addresses that are given were checked, so it is the one made of the host.
        raise InvalidInput(f"The settings do not hold: REMOTEGPU_HOST: {error.message}") from None
    except OSError as error:
        raise InvalidInput(
            f"{CONFIG_VARIABLE} ({path}) cannot be read: {error.strerror}."
        ) from None
    except ValueError as error:
        # TOML that cannot be read.
        raise InvalidInput(f"{CONFIG_VARIABLE} ({path}) is not valid TOML: {error}.") from None
    return settings


def _refuse_unknown_variables() -> None:
    """Raises InvalidInput for a variable that looks like a setting and is none."""
    known = {f"{_PREFIX}{name}".upper() for name in Settings.model_fields}
    names = (name.upper() for name, value in os.environ.items() if value)
    unknown = sorted(
        name
        for name in names
        if name.startswith(_PREFIX) and name not in known and not _OTHERS.fullmatch(name)
    )
    if unknown:
        problems = "; ".join(
            f"{name}: {_unknown(name.removeprefix(_PREFIX).lower())}" for name in unknown
        )
        raise InvalidInput(f"The settings do not hold: {problems}.")


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, Settings.model_fields, n=1)
    meant = f"write {_PREFIX}{close[0].upper()}, or " if close else ""
    return f"there is no such setting: {meant}remove it. docs/operations.md lists all of them"
