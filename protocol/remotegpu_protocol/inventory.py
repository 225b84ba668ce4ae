"""What a host is made of. Sent after each hello and whenever it changes."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from remotegpu_protocol.commands import Kind
from remotegpu_protocol.limits import (
    MAX_ADDRESSES,
    MAX_DISKS,
    MAX_ENABLED_KINDS,
    MAX_GPUS,
    MAX_HELD_ALLOCATIONS,
    MAX_HOST_KEYS,
    MAX_MIG_DEVICES,
    MAX_SSH_ACCOUNTS,
    MAX_SSH_LISTENERS,
    MAX_SURFACES,
)
from remotegpu_protocol.values import (
    ByteCount,
    Count,
    Identifier,
    Index,
    LongText,
    Port,
    Text,
    Watts,
)


class AddressKind(StrEnum):
    """MANAGEMENT is the address that the agent dials from, PUBLIC is routable worldwide."""

    MANAGEMENT = "MANAGEMENT"
    PUBLIC = "PUBLIC"
    ADDITIONAL = "ADDITIONAL"


class GpuHealth(StrEnum):
    """UNHEALTHY: fell off the bus, or the driver gave up on it."""

    HEALTHY = "HEALTHY"
    DEGRADED = "DEGRADED"
    UNHEALTHY = "UNHEALTHY"


class DriverState(StrEnum):
    """ABSENT: no NVIDIA driver library on the host. FAILED: one that does not work."""

    READY = "READY"
    ABSENT = "ABSENT"
    FAILED = "FAILED"
    SIMULATED = "SIMULATED"


class Address(Struct, frozen=True, omit_defaults=True):
    address: Text
    kind: AddressKind
    interface: Text | None = None


class Disk(Struct, frozen=True, omit_defaults=True):
    """A block device that holds data; `size` in bytes."""

    name: Text
    size: ByteCount | None = None
    model: Text | None = None
    rotational: bool | None = None


class MigDevice(Struct, frozen=True, omit_defaults=True):
    uuid: Identifier
    name: Text | None = None
    memory_total: ByteCount | None = None
    gpu_instance_id: Index | None = None
    compute_instance_id: Index | None = None


class GpuInventory(Struct, frozen=True, omit_defaults=True):
    """A GPU; `index` is NVML's, `uuid` what identifies the card for good."""

    index: Index
    uuid: Identifier
    model: Text
    memory_total: ByteCount | None = None
    pci_bus_id: Text | None = None
    serial: Text | None = None
    vbios_version: Text | None = None
    power_limit_max: Watts | None = None
    mig_enabled: bool | None = None
    mig_devices: Annotated[list[MigDevice], Meta(max_length=MAX_MIG_DEVICES)] = []
    health: GpuHealth = GpuHealth.HEALTHY
    health_reason: LongText | None = None


class Policy(Struct, frozen=True, omit_defaults=True):
    """What the host's own policy file lets the control plane do; nothing without one.

    `simulated`: the agent only pretends to carry commands out. `message` says why a policy file
    that is there is not obeyed.
    """

    commands: Annotated[list[Kind], Meta(max_length=MAX_ENABLED_KINDS)] = []
    simulated: bool = False
    message: LongText | None = None


class IsolationKind(StrEnum):
    """How a host keeps the GPUs of one allocation from the accounts of others.

    NONE: it does not. DEVICE_ACL: an account can open the device files of its GPUs and of no
    others. WHOLE_MACHINE_ONLY: its owner wants that, and the host cannot: it refuses what would
    share it.
    """

    NONE = "NONE"
    DEVICE_ACL = "DEVICE_ACL"
    WHOLE_MACHINE_ONLY = "WHOLE_MACHINE_ONLY"


class GpuIsolation(Struct, frozen=True, omit_defaults=True):
    """`reason`: why it is not DEVICE_ACL."""

    kind: IsolationKind
    reason: LongText | None = None


class HostKey(Struct, frozen=True, omit_defaults=True):
    """By which `ssh` knows the host; `fingerprint` as `ssh-keygen -l` shows it."""

    algorithm: Identifier
    fingerprint: Identifier


class SshListener(Struct, frozen=True, omit_defaults=True):
    """Where sshd takes connections; `0.0.0.0` and `::` are all addresses of the host."""

    address: Text
    port: Port


class AccountSignIn(Struct, frozen=True, omit_defaults=True):
    """`refusal`: why sshd does not let this account in; None where it does."""

    account: Identifier
    refusal: LongText | None = None


class SshServer(Struct, frozen=True, omit_defaults=True):
    """`refusal`: why sshd would not let the account of an allocation in; None where nothing is known
    to keep it out. `accounts`: those that are on the host and differ from that."""

    port: Port = 22
    host_keys: Annotated[list[HostKey], Meta(max_length=MAX_HOST_KEYS)] = []
    listeners: Annotated[list[SshListener], Meta(max_length=MAX_SSH_LISTENERS)] = []
    refusal: LongText | None = None
    accounts: Annotated[list[AccountSignIn], Meta(max_length=MAX_SSH_ACCOUNTS)] = []


class HostInventory(Struct, frozen=True, omit_defaults=True):
    """`cleaning_obstacles`: why the end of an allocation could not be proven on a host that cleans,
    one for each surface; empty where nothing is known to be in the way."""

    hostname: Text
    hardware_uuid: Text | None = None
    cpu_model: Text | None = None
    cpu_count: Count | None = None
    architecture: Text | None = None
    memory_total: ByteCount | None = None
    disk_total: ByteCount | None = None
    disks: Annotated[list[Disk], Meta(max_length=MAX_DISKS)] = []
    operating_system: Text | None = None
    kernel: Text | None = None
    addresses: Annotated[list[Address], Meta(max_length=MAX_ADDRESSES)] = []
    driver_state: DriverState = DriverState.ABSENT
    driver_message: LongText | None = None
    driver_version: Text | None = None
    cuda_version: Text | None = None
    policy: Policy | None = None
    gpu_isolation: GpuIsolation | None = None
    ssh: SshServer | None = None
    records_damaged: LongText | None = None
    allocations: Annotated[list[Identifier], Meta(max_length=MAX_HELD_ALLOCATIONS)] = []
    cleaning_obstacles: Annotated[list[LongText], Meta(max_length=MAX_SURFACES)] = []


class Inventory(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="inventory"):
    """`revision` grows by one with each inventory of a connection and names it in the answer."""

    revision: Count
    host: HostInventory
    gpus: Annotated[list[GpuInventory], Meta(max_length=MAX_GPUS)]
