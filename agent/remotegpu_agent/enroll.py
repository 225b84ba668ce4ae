"""Becoming a machine: redeeming an enrolment token for the key of this host."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from remotegpu_agent.dial import Server, dial
from remotegpu_agent.errors import (
    AlreadyEnrolled,
    KeyRefused,
    NotEnrolled,
    Refused,
    SettingError,
    Unreachable,
)
from remotegpu_agent.host import host_name, smbios_uuid
from remotegpu_agent.identity import (
    HostKey,
    Identity,
    enrolling_key,
    forget_enrolling_key,
    load_identity,
    store_identity,
)
from remotegpu_agent.link import Link
from remotegpu_agent.sources.choose import SourceKind, SourceSettings
from remotegpu_agent.sources.simulated_host import simulated_hardware_uuid, simulated_hostname
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_agent.version import agent_version
from remotegpu_protocol.agent_link import AgentLink
from remotegpu_protocol.close_codes import PERMANENT
from remotegpu_protocol.errors import KeyInUse
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.messages import Enrolled, FromServer
from remotegpu_protocol.openings import enrolling
from remotegpu_protocol.origin import agent_url, normalise_origin

#: Characters, as in the protocol's message.
_MAX_TOKEN: Final = 256


@dataclass(frozen=True, slots=True)
class Applicant:
    """What the host says about itself before it is a machine."""

    hostname: str
    hardware_uuid: str | None


async def enroll(
    directory: StateDirectory,
    server: Server,
    *,
    token: str,
    applicant: Callable[[HostKey], Applicant],
    replace: bool = False,
) -> Identity:
    """Redeem `token` at `server` and keep the identity in `directory`.

    The key is on the disk before it is sent: if the answer gets lost, doing this again with the
    same token succeeds.

    Raises:
        AlreadyEnrolled: the directory holds an identity, and `replace` is not set.
        Refused: the control plane does not take the token.
        SettingError, StateDirectoryError, Unreachable: what their names say.
    """
    check_token(token)
    key = enrolling_key(directory, enrolled=_enrolled_key(directory, replace=replace))
    try:
        enrolled = await _redeem(server, token=token, key=key, applicant=applicant(key))
    except KeyRefused:
        # Of an enrolment whose answer was lost: its machine has the key.
        forget_enrolling_key(directory)
        raise
    identity = Identity(
        key=key,
        machine_id=enrolled.machine_id,
        machine_name=clean_text(enrolled.machine_name),
        origin=server.origin,
        ca_file=server.ca_file,
    )
    store_identity(directory, identity)
    return identity


async def enroll_host(
    directory: StateDirectory,
    *,
    server: str,
    token: str,
    ca_file: Path | None = None,
    replace: bool = False,
    proxy: str | None = None,
    settings: SourceSettings | None = None,
) -> Identity:
    """Enrol this host, real or simulated, at the address `server`; raises like `enroll`.

    `ca_file` is kept as it is given, for later starts: an absolute path.

    Raises:
        InvalidValue: `server` is no address that an agent may dial.
        AlreadyRunning: an agent runs with the identity that would be replaced.
    """
    # Before a key is made: the address decides whether there is anybody to enrol with.
    agent_url(server)
    chosen = settings or SourceSettings()
    directory.create()
    with directory.locked():
        return await enroll(
            directory,
            Server(
                normalise_origin(server),
                None if ca_file is None else str(ca_file),
                proxy,
            ),
            token=token,
            applicant=lambda key: _applicant(chosen, key),
            replace=replace,
        )


def _applicant(settings: SourceSettings, key: HostKey) -> Applicant:
    if settings.kind is SourceKind.SIMULATED:
        seed = settings.seed_for(key)
        return Applicant(simulated_hostname(seed, None), simulated_hardware_uuid(seed))
    return Applicant(host_name(), smbios_uuid())


def check_token(token: str) -> None:
    """Refuse what cannot be a token, without repeating it.

    Raises:
        SettingError: it is empty, too long, or holds blanks or characters beyond ASCII.
    """
    if not token:
        raise SettingError(
            "The enrolment token is empty. Get one from the control plane; it is valid for "
            "10 minutes."
        )
    if len(token) > _MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingError(
            "That is no enrolment token: expected up to 256 printable characters without blanks. "
            "Copy the whole token, and nothing else."
        )


def _enrolled_key(directory: StateDirectory, *, replace: bool) -> HostKey | None:
    try:
        enrolled = load_identity(directory)
    except NotEnrolled:
        return None
    if not replace:
        raise AlreadyEnrolled(
            f"This host is enrolled as {enrolled.machine_name} at {enrolled.origin}. To give it "
            "a new key and another machine, add --replace; to run a second agent, name another "
            "--state-dir."
        )
    return enrolled.key


async def _redeem(server: Server, *, token: str, key: HostKey, applicant: Applicant) -> Enrolled:
    opening = enrolling(
        key,
        token=token,
        origin=server.origin,
        agent_version=agent_version(),
        hostname=applicant.hostname,
        hardware_uuid=applicant.hardware_uuid,
    )
    answers: list[Enrolled] = []

    def take(message: FromServer) -> None:
        if isinstance(message, Enrolled):
            answers.append(message)

    websocket = await dial(server)
    ending = await Link(websocket, AgentLink(opening, now=time.monotonic())).run(take)
    if answers:
        return answers[0]
    reason = clean_text(ending.reason, 1000)
    if ending.error_code == KeyInUse.code:
        raise KeyRefused(f"{server.origin} refused the enrolment: {reason}")
    if ending.code in PERMANENT or ending.error_code is not None:
        raise Refused(f"{server.origin} refused the enrolment: {reason}")
    raise Unreachable(
        f"{server.origin} ended the connection before it answered: {reason} Run the same command "
        "again: the token stays good for this host."
    )
