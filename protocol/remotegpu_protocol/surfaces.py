"""The surfaces of a host on which an allocation leaves something: what a cleaning report is made of."""

from enum import StrEnum


class Surface(StrEnum):
    """In the order of cleaning. The report of a real host has one item for each of them, and a
    surface that the host does not have says so in its item. A new surface is added here first.

    Exception: the allocation for which no account was ever made, of which nobody signed in. Its
    report has one item, ACCOUNT with the action `none`.
    """

    HOST_VIEW = "view of the host"
    SIGN_IN = "sign-in"
    SSH_KEYS = "SSH keys"
    LINGERING = "lingering"
    CRON = "cron"
    AT_JOBS = "at jobs"
    USER_UNITS = "systemd user units"
    CONTAINERS = "containers"
    GPU_DEVICES = "GPU device permissions"
    PROCESSES = "processes"
    MOUNTS = "mounts"
    DATASETS = "data sets"
    RUNTIME_DIRECTORY = "runtime directory"
    SYSTEM_V_IPC = "System V IPC"
    MESSAGE_QUEUES = "POSIX message queues"
    KERNEL_KEYS = "kernel keys"
    SHARED_MEMORY = "shared memory"
    TEMPORARY_FILES = "temporary files"
    SCRATCH_DISKS = "scratch disks"
    MAIL = "mail"
    CORE_DUMPS = "core dumps"
    JOURNAL = "journal"
    HOME = "home directory"
    LOGIND_USER = "user of logind"
    GPU_MEMORY = "GPU processes and memory"
    GPU_SETTINGS = "GPU settings"
    GPU_CLOCK_LOCKS = "GPU clock locks"
    PORTS = "port mappings and firewall rules"
    ACCOUNT = "account"


#: Every surface, in the order of cleaning.
SURFACES: tuple[Surface, ...] = tuple(Surface)
