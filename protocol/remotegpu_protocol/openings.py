"""The two first messages that an agent can answer a challenge with."""

import secrets

from remotegpu_protocol.agent_link import Opening
from remotegpu_protocol.keys import Signer
from remotegpu_protocol.limits import SUPPORTED_VERSIONS
from remotegpu_protocol.messages import Challenge, Enroll, Hello
from remotegpu_protocol.statements import NONCE_BYTES, connect_statement, enroll_statement


def connecting(
    signer: Signer,
    *,
    machine_id: str,
    origin: str,
    agent_version: str,
    boot_id: str,
    journal_id: str | None = None,
    last_sequence: int | None = None,
    acknowledged_sequence: int | None = None,
) -> Opening:
    """The opening of an enrolled agent; `origin` is normalised."""
    versions = list(SUPPORTED_VERSIONS)

    def open_with(challenge: Challenge, clock: int) -> Hello:
        nonce = secrets.token_bytes(NONCE_BYTES)
        statement = connect_statement(
            machine_id=machine_id,
            origin=origin,
            server_nonce=challenge.nonce,
            agent_nonce=nonce,
            versions=versions,
        )
        return Hello(
            machine_id=machine_id,
            origin=origin,
            nonce=nonce,
            versions=versions,
            signature=signer.sign(statement),
            agent_version=agent_version,
            boot_id=boot_id,
            clock=clock,
            journal_id=journal_id,
            last_sequence=last_sequence,
            acknowledged_sequence=acknowledged_sequence,
        )

    return open_with


def enrolling(
    signer: Signer,
    *,
    token: str,
    origin: str,
    agent_version: str,
    hostname: str,
    hardware_uuid: str | None,
) -> Opening:
    """The opening of a host that has a token and wants to be a machine."""
    versions = list(SUPPORTED_VERSIONS)

    def open_with(challenge: Challenge, clock: int) -> Enroll:
        statement = enroll_statement(
            token=token,
            public_key=signer.public_key,
            origin=origin,
            server_nonce=challenge.nonce,
            versions=versions,
        )
        return Enroll(
            token=token,
            public_key=signer.public_key,
            origin=origin,
            versions=versions,
            signature=signer.sign(statement),
            agent_version=agent_version,
            hostname=hostname,
            hardware_uuid=hardware_uuid,
        )

    return open_with
