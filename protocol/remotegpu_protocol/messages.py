"""Every message of the link.

A message is one binary websocket frame holding a msgpack map whose `type` names it. Fields that
a reader does not know are ignored. The types `stream_open`, `stream_data`, `stream_credit` and
`stream_close` are set aside.
"""

from typing import Annotated

from msgspec import Meta, Struct

from remotegpu_protocol.commands import Cancel, Command, Event, EventAck
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.inventory import Inventory
from remotegpu_protocol.limits import MAX_ERROR_LENGTH
from remotegpu_protocol.metrics import Metrics
from remotegpu_protocol.statements import NONCE_BYTES
from remotegpu_protocol.values import (
    Count,
    EventCount,
    Identifier,
    LongText,
    ProtocolVersion,
    Seconds,
    Text,
    Timestamp,
)

Nonce = Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
PublicKey = Annotated[bytes, Meta(min_length=32, max_length=32)]
Versions = Annotated[list[ProtocolVersion], Meta(min_length=1, max_length=16)]


class Message(Struct, frozen=True, tag_field="type"):
    """Root of the small messages; `metrics`, `inventory` and `commands` are modules of their own."""


# --- control plane to agent ------------------------------------------------------------------


class Challenge(Message, frozen=True, tag="challenge"):
    """First on every connection. `server_time` in milliseconds since the Unix epoch."""

    nonce: Nonce
    versions: Versions
    server_time: Timestamp


class Welcome(Message, frozen=True, tag="welcome"):
    """The hello was good. `epoch` numbers the connections of this machine; times in seconds.

    `retry_spread`: over how many seconds the agents of this fleet spread their first attempts when
    their links end.
    """

    version: ProtocolVersion
    epoch: Count
    machine_name: Text
    server_time: Timestamp
    heartbeat_interval: Seconds
    link_silence: Seconds
    sample_interval: Seconds
    retry_spread: Seconds | None = None


class Enrolled(Message, frozen=True, tag="enrolled"):
    """The enrolment was good; the agent stores `machine_id`, closes, and connects with a hello."""

    machine_id: Identifier
    machine_name: Text


class HeartbeatAck(Message, frozen=True, tag="heartbeat_ack"):
    sequence: Count
    server_time: Timestamp


class InventoryAck(Message, frozen=True, tag="inventory_ack"):
    """The inventory with this revision is applied."""

    revision: Count


class WatchRate(Message, frozen=True, tag="watch_rate"):
    """Somebody watches: sample every `interval` seconds for the next `lease` seconds.

    Each one replaces the one before; a lease of 0 ends the watch at once.
    """

    interval: Seconds
    lease: Seconds


# --- agent to control plane ------------------------------------------------------------------


class Hello(Message, frozen=True, tag="hello"):
    """Who is calling. `signature` covers `connect_statement`; `boot_id` is the kernel's.

    `origin` is the address that the agent dialled, normalised: the control plane compares it
    with its own configuration, so that a host lured to another address proves nothing there.

    `journal_id` and `last_sequence` name the agent's journal of commands and the last event
    that it wrote there, `acknowledged_sequence` the last that it was told to be applied; an agent
    without one sends nothing.
    """

    machine_id: Identifier
    origin: Text
    nonce: Nonce
    versions: Versions
    signature: Signature
    agent_version: Text
    boot_id: Text
    clock: Timestamp
    journal_id: Identifier | None = None
    last_sequence: EventCount | None = None
    acknowledged_sequence: EventCount | None = None


class Enroll(Message, frozen=True, tag="enroll"):
    """Redeems an enrolment token. `signature` covers `enroll_statement`."""

    token: Annotated[str, Meta(min_length=1, max_length=256)]
    public_key: PublicKey
    origin: Text
    versions: Versions
    signature: Signature
    agent_version: Text
    hostname: Text
    hardware_uuid: Text | None = None


class Heartbeat(Message, frozen=True, tag="heartbeat"):
    """`clock` is the agent's, in milliseconds since the Unix epoch."""

    sequence: Count
    clock: Timestamp


# --- either way ------------------------------------------------------------------------------


class Error(Message, frozen=True, tag="error"):
    """Something that the other side sent was refused. A fatal one is followed by the close.

    `retry_after`: seconds after which the agent is to come back.
    """

    code: Text
    message: LongText
    fatal: bool = False
    retry_after: Seconds | None = None

    @classmethod
    def saying(
        cls, code: str, message: str, *, fatal: bool = False, retry_after: float | None = None
    ) -> "Error":
        """An error that the other side can read, whatever went into its message."""
        return cls(clean_text(code), clean_text(message, MAX_ERROR_LENGTH), fatal, retry_after)


FromServer = (
    Challenge
    | Welcome
    | Enrolled
    | HeartbeatAck
    | InventoryAck
    | WatchRate
    | Command
    | Cancel
    | EventAck
    | Error
)
FromAgent = Hello | Enroll | Heartbeat | Inventory | Metrics | Event | Error
