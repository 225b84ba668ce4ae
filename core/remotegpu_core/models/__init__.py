"""The rows, one noun a file."""

from remotegpu_core.models.allocation import (
    Allocation,
    AllocationEvent,
    Booking,
    CleaningReceipt,
    Occupancy,
)
from remotegpu_core.models.audit_event import AuditEvent, Outcome
from remotegpu_core.models.command import Command
from remotegpu_core.models.credential import ApiToken, Session, SignInFailure
from remotegpu_core.models.dataset import Dataset, DatasetGrant, Mount
from remotegpu_core.models.enrollment import Enrollment
from remotegpu_core.models.idempotency import IdempotencyKey
from remotegpu_core.models.machine import (
    Gpu,
    GpuGroup,
    Machine,
    MachineChange,
    MachineGrant,
    MachineLabel,
)
from remotegpu_core.models.machine_address import AddressSource, MachineAddress
from remotegpu_core.models.operation import Operation, OperationStep
from remotegpu_core.models.quarantine_cause import QuarantineCause
from remotegpu_core.models.quota import Quota
from remotegpu_core.models.revoked_key import RevokedKey
from remotegpu_core.models.ssh_key import SshKey
from remotegpu_core.models.system import (
    ClockStamp,
    Freeze,
    FreezeCause,
    Lease,
    Replica,
    Version,
)
from remotegpu_core.models.user import User
from remotegpu_core.models.workspace import Membership, Workspace, WorkspaceRole

__all__ = [
    "AddressSource",
    "Allocation",
    "AllocationEvent",
    "ApiToken",
    "AuditEvent",
    "Booking",
    "CleaningReceipt",
    "ClockStamp",
    "Command",
    "Dataset",
    "DatasetGrant",
    "Enrollment",
    "Freeze",
    "FreezeCause",
    "Gpu",
    "GpuGroup",
    "IdempotencyKey",
    "Lease",
    "Machine",
    "MachineAddress",
    "MachineChange",
    "MachineGrant",
    "MachineLabel",
    "Membership",
    "Mount",
    "Occupancy",
    "Operation",
    "OperationStep",
    "Outcome",
    "QuarantineCause",
    "Quota",
    "Replica",
    "RevokedKey",
    "Session",
    "SignInFailure",
    "SshKey",
    "User",
    "Version",
    "Workspace",
    "WorkspaceRole",
]
