from remotegpu_core.services.datasets.reading import DatasetOrderField
from remotegpu_core.states import DatasetAccess, DatasetVisibility, MountState
from remotegpu_graphql.enums import graph_enum
from remotegpu_protocol.datasets import SourceKind

__all__ = ["DatasetAccess", "DatasetOrderField", "DatasetVisibility", "MountState", "SourceKind"]

graph_enum(
    SourceKind,
    "What a dataset's source is. New values may come.",
    {
        "DIRECTORY": "A directory of one machine: an absolute path like /srv/imagenet.",
        "NFS": "An export of a file server: nas.example.org:/export/imagenet.",
        "S3": "A bucket, and maybe a prefix in it: s3://models/imagenet.",
    },
    name="DatasetSourceKind",
)
graph_enum(
    DatasetVisibility,
    "Who sees a dataset and may read it, besides its owner and whom it is granted to.",
    {
        "PRIVATE": "Nobody else.",
        "WORKSPACE": "The members of its workspace.",
        "PUBLIC": "Everybody who is signed in.",
    },
)
graph_enum(
    DatasetAccess,
    "What somebody may do with a dataset.",
    {
        "READ": "Mount it to read.",
        "WRITE": "Mount it to read and write.",
    },
)
graph_enum(
    MountState,
    "Where a mount stands.",
    {
        "PENDING": "The host is told.",
        "MOUNTED": "It is there.",
        "UNMOUNTING": "It is over, and the host has not said so yet.",
        "UNMOUNTED": "It is gone.",
        "FAILED": "The host could not mount it; the error says why.",
    },
)
graph_enum(
    DatasetOrderField,
    "What datasets can be ordered by.",
    {
        "NAME": "By name, in any case.",
        "CREATED_AT": "By when they were registered.",
    },
)
