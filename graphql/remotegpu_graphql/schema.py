"""The schema: one line a domain."""

import strawberry
from strawberry.schema.config import StrawberryConfig
from strawberry.tools import merge_types

from remotegpu_graphql.allocations.mutations import AllocationsMutation
from remotegpu_graphql.allocations.queries import AllocationsQuery
from remotegpu_graphql.allocations.subscriptions import AllocationsSubscription
from remotegpu_graphql.allocations.types import Allocation
from remotegpu_graphql.audit.queries import AuditQuery
from remotegpu_graphql.audit.types import AuditEvent
from remotegpu_graphql.bounds import declare_bounds
from remotegpu_graphql.context import Info
from remotegpu_graphql.datasets.mutations import DatasetsMutation
from remotegpu_graphql.datasets.queries import DatasetsQuery
from remotegpu_graphql.datasets.types import Dataset, Mount
from remotegpu_graphql.enrollments.mutations import EnrollmentsMutation
from remotegpu_graphql.enrollments.queries import EnrollmentsQuery
from remotegpu_graphql.enrollments.types import Enrollment
from remotegpu_graphql.fleet.freeze import FreezeMutation, FreezeQuery
from remotegpu_graphql.fleet.queries import FleetQuery
from remotegpu_graphql.fleet.subscriptions import FleetSubscription
from remotegpu_graphql.machines.addressing import AddressingMutation
from remotegpu_graphql.machines.gpu_claims import GpuClaimsMutation
from remotegpu_graphql.machines.maintenance import MaintenanceMutation
from remotegpu_graphql.machines.mutations import MachinesMutation
from remotegpu_graphql.machines.queries import MachinesQuery
from remotegpu_graphql.machines.subscriptions import MachinesSubscription
from remotegpu_graphql.machines.types import Gpu, Machine
from remotegpu_graphql.metrics.queries import MetricsQuery
from remotegpu_graphql.metrics.subscriptions import MetricsSubscription
from remotegpu_graphql.nodes import NodesQuery
from remotegpu_graphql.operations.mutations import OperationsMutation
from remotegpu_graphql.operations.queries import OperationsQuery
from remotegpu_graphql.operations.subscriptions import OperationsSubscription
from remotegpu_graphql.operations.types import Operation
from remotegpu_graphql.quotas.mutations import QuotasMutation
from remotegpu_graphql.scalars import SCALARS
from remotegpu_graphql.ssh_keys.mutations import SshKeysMutation
from remotegpu_graphql.ssh_keys.types import SshKey
from remotegpu_graphql.tokens.mutations import TokensMutation
from remotegpu_graphql.tokens.types import ApiToken
from remotegpu_graphql.users.mutations import UsersMutation
from remotegpu_graphql.users.queries import UsersQuery
from remotegpu_graphql.users.types import User
from remotegpu_graphql.viewer.mutations import ViewerMutation
from remotegpu_graphql.viewer.queries import ViewerQuery
from remotegpu_graphql.workspaces.mutations import WorkspacesMutation
from remotegpu_graphql.workspaces.queries import WorkspacesQuery
from remotegpu_graphql.workspaces.types import Workspace

QUERIES = (
    ViewerQuery,
    NodesQuery,
    MachinesQuery,
    MetricsQuery,
    AllocationsQuery,
    DatasetsQuery,
    OperationsQuery,
    FleetQuery,
    FreezeQuery,
    UsersQuery,
    WorkspacesQuery,
    EnrollmentsQuery,
    AuditQuery,
)
MUTATIONS = (
    ViewerMutation,
    UsersMutation,
    TokensMutation,
    SshKeysMutation,
    WorkspacesMutation,
    EnrollmentsMutation,
    MachinesMutation,
    MaintenanceMutation,
    AddressingMutation,
    GpuClaimsMutation,
    AllocationsMutation,
    DatasetsMutation,
    OperationsMutation,
    QuotasMutation,
    FreezeMutation,
)
SUBSCRIPTIONS = (
    MetricsSubscription,
    MachinesSubscription,
    FleetSubscription,
    AllocationsSubscription,
    OperationsSubscription,
)

#: What `node` can give.
NODES = (
    Machine,
    Gpu,
    Allocation,
    Operation,
    User,
    ApiToken,
    SshKey,
    Dataset,
    Mount,
    Workspace,
    Enrollment,
    AuditEvent,
)


def _described(root: type, description: str) -> type:
    root.__strawberry_definition__.description = description  # type: ignore[attr-defined]  # set by merge_types
    return root


schema = strawberry.Schema(
    query=_described(merge_types("Query", QUERIES), "What can be asked."),
    mutation=_described(merge_types("Mutation", MUTATIONS), "What can be done."),
    subscription=_described(merge_types("Subscription", SUBSCRIPTIONS), "What can be followed."),
    types=NODES,
    config=StrawberryConfig(scalar_map=SCALARS, info_class=Info),
)


declare_bounds(schema._schema)  # noqa: SLF001 - Strawberry has no public name for it


def sdl() -> str:
    """The schema in GraphQL's language, as `graphql/schema.graphql` has it."""
    return schema.as_str() + "\n"
