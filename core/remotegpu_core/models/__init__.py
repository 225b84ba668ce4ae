"""The rows, one noun a file."""

from remotegpu_core.models.audit_event import AuditEvent, Outcome
from remotegpu_core.models.credential import ApiToken, Session, SignInFailure
from remotegpu_core.models.enrollment import Enrollment
from remotegpu_core.models.machine import Gpu, Machine, MachineChange, MachineGrant, MachineLabel
from remotegpu_core.models.system import Replica, Version
from remotegpu_core.models.user import User
from remotegpu_core.models.workspace import Membership, Workspace, WorkspaceRole

__all__ = [
    "ApiToken",
    "AuditEvent",
    "Enrollment",
    "Gpu",
    "Machine",
    "MachineChange",
    "MachineGrant",
    "MachineLabel",
    "Membership",
    "Outcome",
    "Replica",
    "Session",
    "SignInFailure",
    "User",
    "Version",
    "Workspace",
    "WorkspaceRole",
]
