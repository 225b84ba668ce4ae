from enum import StrEnum

from remotegpu_core.services.changes import ChangeKind
from remotegpu_core.services.gpus import GpuOrderField
from remotegpu_core.services.machines import MachineOrderField
from remotegpu_core.states import Availability, Health, Lifecycle, Presence
from remotegpu_graphql.enums import graph_enum
from remotegpu_protocol.inventory import DriverState, IsolationKind

graph_enum(
    Presence,
    "Whether the control plane hears the machine's agent.",
    {
        "ONLINE": "Connected.",
        "UNREACHABLE": "Silent for 12 seconds or more; its work goes on.",
        "LOST": "Silent for two minutes or more.",
    },
)
graph_enum(
    Lifecycle,
    "What the operators do with the machine.",
    {
        "IN_SERVICE": "It may be used.",
        "MAINTENANCE": "Somebody works on it.",
        "QUARANTINED": "It may not be used while it has quarantineCauses.",
        "RETIRED": "It is gone for good.",
    },
)
graph_enum(
    Health,
    "What a machine or a GPU says of itself.",
    {
        "HEALTHY": "Nothing is wrong.",
        "DEGRADED": "Something is wrong, the rest works; the reasons say what.",
        "UNHEALTHY": "It does not work.",
    },
)
graph_enum(
    Availability,
    "Whether somebody holds it.",
    {
        "AVAILABLE": "Nobody holds any of it.",
        "PARTLY_ALLOCATED": "Some of its GPUs are held.",
        "ALLOCATED": "All of it is held.",
        "RECLAIMING": "It is being cleaned after its last holder.",
    },
)
graph_enum(
    DriverState,
    "Of the NVIDIA driver.",
    {
        "READY": "It answers.",
        "ABSENT": "There is none on the host.",
        "FAILED": "It is there and does not work; driverMessage says why.",
        "SIMULATED": "The GPUs are made up, for demonstrations and tests.",
    },
)
graph_enum(
    IsolationKind,
    "How a host keeps the GPUs of one allocation from the accounts of others.",
    {
        "NONE": "It does not: whoever has an account on it can open every GPU.",
        "DEVICE_ACL": "An account can open the device files of its GPUs, and of no others.",
        "WHOLE_MACHINE_ONLY": "Its owner wants that, and it cannot: it is allocated as a whole only.",
    },
    name="GpuIsolationKind",
)
graph_enum(
    MachineOrderField,
    "What machines are ordered by.",
    {
        "NAME": "By name, in any case.",
        "CREATED_AT": "By the time of their enrolment.",
        "FREE_GPUS": "By how many of their GPUs work and are held by no allocation now.",
    },
)
graph_enum(
    GpuOrderField,
    "What GPUs are ordered by.",
    {"FOUND_AT": "By when they were found.", "MODEL": "By their model."},
)


class MachineChangeKind(StrEnum):
    READY = "READY"
    ENROLLED = ChangeKind.ENROLLED
    PRESENCE_CHANGED = ChangeKind.PRESENCE_CHANGED
    HEALTH_CHANGED = ChangeKind.HEALTH_CHANGED
    INVENTORY_CHANGED = ChangeKind.INVENTORY_CHANGED
    LIFECYCLE_CHANGED = ChangeKind.LIFECYCLE_CHANGED
    ACCESS_CHANGED = ChangeKind.ACCESS_CHANGED
    CONFIGURATION_CHANGED = ChangeKind.CONFIGURATION_CHANGED
    AVAILABILITY_CHANGED = ChangeKind.AVAILABILITY_CHANGED


graph_enum(
    MachineChangeKind,
    "What happened to a machine. New values may come.",
    {
        "READY": "Nothing yet: the subscription stands, and its cursor is the present.",
        "ENROLLED": "A host was enrolled, or enrolled again.",
        "PRESENCE_CHANGED": "It went ONLINE, UNREACHABLE or LOST.",
        "HEALTH_CHANGED": "It says something else of its health.",
        "INVENTORY_CHANGED": "Its hardware, driver, system or addresses changed.",
        "LIFECYCLE_CHANGED": "An operator put it in or out of service.",
        "ACCESS_CHANGED": "A grant on it was given or taken.",
        "CONFIGURATION_CHANGED": "An operator changed its name, labels or addresses, or whether it drains.",
        "AVAILABILITY_CHANGED": "Somebody got some of it, or gave it back.",
    },
)


class OrderDirection(StrEnum):
    ASC = "ASC"
    DESC = "DESC"


graph_enum(
    OrderDirection,
    "Which way a list runs.",
    {"ASC": "Smallest, first or oldest first.", "DESC": "Largest, last or newest first."},
)
