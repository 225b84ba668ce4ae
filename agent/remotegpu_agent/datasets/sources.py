"""Which source a mount is of."""

from pathlib import Path

from remotegpu_agent.commands.policy import LocalPolicy
from remotegpu_agent.datasets.directory import Directory
from remotegpu_agent.datasets.nfs import Nfs
from remotegpu_agent.datasets.records import MountRecord
from remotegpu_agent.datasets.s3 import Bucket
from remotegpu_agent.datasets.source import Source
from remotegpu_protocol.datasets import SourceKind


def source_of(record: MountRecord, policy: LocalPolicy, state: Path) -> Source:
    """`state`: the agent's own directory, which is nobody's data set."""
    match record.kind:
        case SourceKind.DIRECTORY:
            return Directory(record, policy.mount_roots, state)
        case SourceKind.NFS:
            return Nfs(record, policy.nfs_exports)
        case SourceKind.S3:
            return Bucket(record)
