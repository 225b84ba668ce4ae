"""The schema keeps the conventions that every part of it shares."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import strawberry
from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLNamedType,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLType,
    GraphQLUnionType,
    IntrospectionQuery,
    build_client_schema,
    build_schema,
    get_introspection_query,
    get_named_type,
    is_introspection_type,
    is_specified_scalar_type,
    lexicographic_sort_schema,
    print_schema,
)
from strawberry.schema.schema_converter import GraphQLCoreConverter

from remotegpu_core.actor import Actor, ActorKind
from remotegpu_core.control_plane import ControlPlane
from remotegpu_graphql.engine import Engine
from remotegpu_graphql.nodes import NODE_KINDS
from remotegpu_graphql.permissions import Access, access_of
from remotegpu_graphql.schema import sdl
from tests.graphql_schema.asking import ask, data_of
from tests.graphql_schema.contract import contract_operations
from tests.graphql_schema.people import as_user, make_key_line

ROOT = Path(__file__).parents[2]
SCHEMA = Engine().schema
TYPES = [
    type_
    for name, type_ in SCHEMA.type_map.items()
    if not is_introspection_type(type_) and not is_specified_scalar_type(type_)
]
COMPOSITE = [t for t in TYPES if isinstance(t, GraphQLObjectType | GraphQLInterfaceType)]
ROOTS = ("Query", "Mutation", "Subscription")
RESERVED = ("Connection", "Edge", "Payload", "Input")

#: What is read off hardware or an operating system, which may not be able to say.
MEASURED = ("HostMetrics", "GpuMetrics", "EccErrors", "MachineSpecs", "Disk")
#: What identifies the thing that was measured, or says how far the measuring came.
IDENTIFYING = {
    *("GpuMetrics.index", "GpuMetrics.uuid", "Disk.name"),
    *("MachineSpecs.hostname", "MachineSpecs.driverState", "MachineSpecs.disks"),
}

#: Operations of the contract that are called as what they ask for. No more may come: whoever
#: generates code for both into one module has to rename one of the two.
KNOWN_CLASHES = {"Viewer", "Node", "Fleet", "MachineMetrics", "Operation"}


def _fields(*kinds: type[GraphQLNamedType]) -> Iterator[tuple[str, GraphQLField]]:
    for type_ in COMPOSITE:
        if not kinds or isinstance(type_, kinds):
            for name, field in type_.fields.items():
                yield f"{type_.name}.{name}", field


def _root_fields(root: str) -> dict[str, GraphQLField]:
    type_ = SCHEMA.type_map[root]
    assert isinstance(type_, GraphQLObjectType)
    fields: dict[str, GraphQLField] = type_.fields
    return fields


def _described(schema: GraphQLSchema) -> Iterator[tuple[str, str | None]]:
    """Everything that has to have a description, and what it has."""
    for name, type_ in schema.type_map.items():
        if is_introspection_type(type_) or is_specified_scalar_type(type_):
            continue
        yield name, type_.description
        match type_:
            case GraphQLObjectType() | GraphQLInterfaceType():
                for field_name, field in type_.fields.items():
                    yield f"{name}.{field_name}", field.description
                    for argument_name, argument in field.args.items():
                        yield f"{name}.{field_name}({argument_name}:)", argument.description
            case GraphQLInputObjectType():
                for field_name, input_field in type_.fields.items():
                    yield f"{name}.{field_name}", input_field.description
            case GraphQLEnumType():
                for value_name, value in type_.values.items():
                    yield f"{name}.{value_name}", value.description
            case _:
                pass


def _undescribed(schema: GraphQLSchema) -> list[str]:
    return [name for name, description in _described(schema) if not (description or "").strip()]


def test_everything_is_described() -> None:
    assert _undescribed(SCHEMA) == []
    assert len(list(_described(SCHEMA))) > 400


def test_a_missing_description_would_be_found() -> None:
    bare = build_schema(
        'enum E { A } input I { a: Int } "T" type Query { "f" f(a: E, "i" i: I): Int }'
    )
    assert set(_undescribed(bare)) == {"E", "E.A", "I", "I.a", "Query.f(a:)"}


def test_descriptions_are_written_for_people() -> None:
    for name, description in _described(SCHEMA):
        text = description or ""
        assert text == text.strip(), name
        assert "\n" not in text, name
        assert text[0].isupper() or text[0].isdigit(), f"{name}: {text}"
        assert text.endswith("."), f"{name}: {text}"


def _permissions(schema: GraphQLSchema) -> dict[str, Access | None]:
    found: dict[str, Access | None] = {}
    for root in ROOTS:
        type_ = schema.type_map.get(root)
        if isinstance(type_, GraphQLObjectType):
            for name, field in type_.fields.items():
                definition = field.extensions[GraphQLCoreConverter.DEFINITION_BACKREF]
                found[f"{root}.{name}"] = access_of(definition)
    return found


def test_every_root_field_declares_its_permission() -> None:
    permissions = _permissions(SCHEMA)
    assert [name for name, access in permissions.items() if access is None] == []
    assert [name for name, access in permissions.items() if access is Access.PUBLIC] == [
        "Mutation.signIn"
    ]


def test_a_root_field_without_a_permission_would_be_found() -> None:
    @strawberry.type
    class Query:
        @strawberry.field
        def forgotten(self) -> int:
            return 1

    forgetful = strawberry.Schema(query=Query)._schema
    assert _permissions(forgetful) == {"Query.forgotten": None}


@pytest.mark.parametrize("name", _root_fields("Mutation"))
def test_mutation_has_one_input_and_a_payload(name: str) -> None:
    field = _root_fields("Mutation")[name]
    capitalised = name[0].upper() + name[1:]
    if field.args:
        assert {key: str(argument.type) for key, argument in field.args.items()} == {
            "input": f"{capitalised}Input!"
        }
    assert str(field.type) == f"{capitalised}Payload"
    payload = get_named_type(field.type)
    assert isinstance(payload, GraphQLObjectType)
    for field_name, payload_field in payload.fields.items():
        if field_name == "userErrors":
            assert str(payload_field.type) == "[UserError!]!"
        else:
            assert not isinstance(payload_field.type, GraphQLNonNull), field_name
    assert "userErrors" in payload.fields


@pytest.mark.parametrize("root", ["Query", "Mutation"])
def test_root_fields_are_nullable(root: str) -> None:
    for name, field in _root_fields(root).items():
        assert not isinstance(field.type, GraphQLNonNull), name


def _is_connection(field: GraphQLField) -> bool:
    return get_named_type(field.type).name.endswith("Connection")


def test_connections_have_relays_shape() -> None:
    connections = [t for t in COMPOSITE if t.name.endswith("Connection")]
    assert len(connections) == 10
    for type_ in connections:
        of = type_.name.removesuffix("Connection")
        assert {name: str(field.type) for name, field in type_.fields.items()} == {
            "edges": f"[{of}Edge!]!",
            "pageInfo": "PageInfo!",
            "totalCount": "Int!",
        }
        edge = SCHEMA.type_map[f"{of}Edge"]
        assert isinstance(edge, GraphQLObjectType)
        assert {name: str(field.type) for name, field in edge.fields.items()} == {
            "cursor": "String!",
            "node": f"{of}!",
        }


def test_connections_are_paged_both_ways() -> None:
    paged = {name: field for name, field in _fields() if _is_connection(field)}
    assert len(paged) == 12
    for name, field in paged.items():
        arguments = {key: str(argument.type) for key, argument in field.args.items()}
        paging = {key: arguments[key] for key in ("first", "after", "last", "before")}
        assert paging == {"first": "Int", "after": "String", "last": "Int", "before": "String"}, (
            name
        )
        assert set(arguments) <= {*paging, "filter", "orderBy"}, name


def test_page_arguments_stand_on_connections_only() -> None:
    for name, field in _fields():
        if {"first", "last", "offset", "page", "limit"} & set(field.args):
            assert _is_connection(field), name


def _nullable_elements(type_: GraphQLType) -> bool:
    while isinstance(type_, GraphQLNonNull):
        type_ = type_.of_type
    return isinstance(type_, GraphQLList) and not isinstance(type_.of_type, GraphQLNonNull)


def test_list_elements_are_not_null() -> None:
    found = [name for name, field in _fields() if _nullable_elements(field.type)]
    # Null stands there for an id that is nobody's.
    assert found == ["Query.nodes"]
    for where, argument in _inputs():
        assert not _nullable_elements(argument.type), where


def _inputs() -> Iterator[tuple[str, Any]]:
    for name, field in _fields():
        for key, argument in field.args.items():
            yield f"{name}({key}:)", argument
    for type_ in TYPES:
        if isinstance(type_, GraphQLInputObjectType):
            for key, input_field in type_.fields.items():
                yield f"{type_.name}.{key}", input_field


def test_reserved_endings() -> None:
    payloads = {get_named_type(f.type).name for f in _root_fields("Mutation").values()}
    edges = {
        f"{t.name.removesuffix('Connection')}Edge"
        for t in COMPOSITE
        if t.name.endswith("Connection")
    }
    expected: dict[str, Callable[[GraphQLNamedType], bool]] = {
        "Connection": lambda t: isinstance(t, GraphQLObjectType) and "edges" in t.fields,
        "Edge": lambda t: t.name in edges,
        "Payload": lambda t: t.name in payloads,
        "Input": lambda t: isinstance(t, GraphQLInputObjectType),
    }
    assert set(expected) == set(RESERVED)
    for type_ in TYPES:
        for ending, holds in expected.items():
            if type_.name.endswith(ending):
                assert holds(type_), type_.name


def test_no_operation_of_the_contract_is_named_as_a_type() -> None:
    # Code generators make something of each.
    clashing = {operation.name for operation in contract_operations()} & set(SCHEMA.type_map)
    assert clashing == KNOWN_CLASHES


def test_committed_sdl_is_the_schema() -> None:
    committed = (ROOT / "graphql" / "schema.graphql").read_text()
    assert committed == sdl(), "run `.venv/bin/remotegpu schema > graphql/schema.graphql`"


async def test_introspection_gives_the_committed_schema(plane: ControlPlane) -> None:
    query = get_introspection_query(specified_by_url=True)
    data = await data_of(plane, await as_user(), query)
    committed = build_schema((ROOT / "graphql" / "schema.graphql").read_text())
    told = build_client_schema(cast("IntrospectionQuery", data))
    assert print_schema(lexicographic_sort_schema(told)) == print_schema(
        lexicographic_sort_schema(committed)
    )


@pytest.mark.parametrize(
    "source",
    [
        get_introspection_query(),
        "{ __schema { queryType { name } } }",
        '{ __type(name: "Machine") { name } }',
        "{ __typename ...A } fragment A on Query { ... { b: __schema { queryType { name } } } }",
        # What is wrong with it would tell of the schema too.
        "{ __schema { nothing } machinez { id } }",
    ],
)
async def test_introspection_takes_sign_in(plane: ControlPlane, source: str) -> None:
    nobody = Actor(ActorKind.ANONYMOUS)
    for _ in range(2):
        # Whether the document was read before makes no difference.
        (error,) = (body := await ask(plane, nobody, source))["errors"]
        assert error["message"] == "Sign in to introspect: __schema and __type are for users."
        assert error["extensions"] == {"code": "UNAUTHENTICATED"}
        assert "data" not in body
        await ask(plane, await as_user(), source)
    assert (await ask(plane, nobody, "{ __typename }"))["data"] == {"__typename": "Query"}


@pytest.mark.parametrize("type_name", MEASURED)
def test_measured_values_are_nullable(type_name: str) -> None:
    type_ = SCHEMA.type_map[type_name]
    assert isinstance(type_, GraphQLObjectType)
    for name, field in type_.fields.items():
        if f"{type_name}.{name}" not in IDENTIFYING:
            assert not isinstance(field.type, GraphQLNonNull), name


def test_sums_over_what_is_measured_are_nullable() -> None:
    gpus = SCHEMA.type_map["FleetGpus"]
    assert isinstance(gpus, GraphQLObjectType)
    assert {name for name, field in gpus.fields.items() if str(field.type).endswith("!")} == {
        *("total", "available", "allocated", "unhealthy")
    }


def _is_id(name: str) -> bool:
    return name in {"id", "ids"} or name.endswith(("Id", "Ids"))


#: Identifiers that hardware has, not we.
HARDWARE_IDS = {"Gpu.pciBusId"}


def test_ids_are_ids() -> None:
    for where, field in _fields():
        if _is_id(where.rpartition(".")[2]) and where not in HARDWARE_IDS:
            assert get_named_type(field.type).name == "ID", where
    for where, argument in _inputs():
        if _is_id(where.rpartition("." if "(" not in where else "(")[2].rstrip("):")):
            assert get_named_type(argument.type).name == "ID", where
    for where, field in _fields():
        if where.endswith(".id"):
            assert str(field.type) == "ID!", where


def test_arguments_that_name_an_object_take_an_id() -> None:
    ids = {
        where: argument.type
        for where, argument in _inputs()
        if get_named_type(argument.type).name == "ID"
    }
    assert all(_is_id(where.rstrip("):").rpartition("(")[2].rpartition(".")[2]) for where in ids)
    # A lookup's is required; what may be left out is one of two, or a filter's.
    optional = {where for where, type_ in ids.items() if not isinstance(type_, GraphQLNonNull)}
    assert optional == {
        *("CreateEnrollmentInput.machineId", "AuditFilter.actorId", "AuditFilter.targetId"),
        *("GrantMachineInput.userId", "GrantMachineInput.workspaceId"),
        "SetWorkspaceMemberInput.userId",
        *("AllocateInput.machineId", "AllocateInput.gpuIds", "AllocateInput.userId"),
        *("AllocateInput.workspaceId", "SetQuotaInput.userId", "SetQuotaInput.workspaceId"),
        *("AllocationFilter.userId", "AllocationFilter.workspaceId"),
        "AllocationFilter.machineId",
        "GpuFilter.machineId",
        *("RetryReclaimInput.allocationId", "RetryReclaimInput.machineId"),
        *("RevokeMachineGrantInput.userId", "RevokeMachineGrantInput.workspaceId"),
        *("DatasetSourceInput.machineId", "DatasetFilter.workspaceId"),
        *("RegisterDatasetInput.workspaceId", "RegisterDatasetInput.ownerId"),
        "UpdateDatasetInput.workspaceId",
        *("GrantDatasetInput.userId", "GrantDatasetInput.workspaceId"),
        *("RevokeDatasetGrantInput.userId", "RevokeDatasetGrantInput.workspaceId"),
    }


def test_names_keep_their_case() -> None:
    for type_ in TYPES:
        assert type_.name[0].isupper(), type_.name
        assert "_" not in type_.name, type_.name
        if isinstance(type_, GraphQLEnumType):
            for value in type_.values:
                assert value == value.upper(), f"{type_.name}.{value}"
    for where, _field in _fields():
        name = where.rpartition(".")[2]
        assert name[0].islower(), where
        assert "_" not in name, where


def test_scalars_name_their_specification() -> None:
    ours = [t for t in TYPES if t.name in {"DateTime", "ByteCount", "Count"}]
    assert len(ours) == 3
    for scalar in ours:
        assert (getattr(scalar, "specified_by_url", None) or "").startswith("https://")


def test_fields_of_one_name_share_their_type_across_a_union() -> None:
    unions = [t for t in TYPES if isinstance(t, GraphQLUnionType)]
    assert [union.name for union in unions] == ["AuditActor"]
    for union in unions:
        seen: dict[str, str] = {}
        for member in union.types:
            for name, field in member.fields.items():
                assert seen.setdefault(name, str(field.type)) == str(field.type), name


def test_what_is_deprecated_says_why() -> None:
    for where, field in _fields():
        assert field.deprecation_reason is None or len(field.deprecation_reason) > 10, where


def test_units_are_said() -> None:
    """Whoever reads a number must know of what."""
    units = {
        "utilization": "percent",
        "cpuUtilization": "Percent",
        "temperature": "degrees Celsius",
        "power": "watts",
        "powerLimit": "watts",
        "smClock": "MHz",
        "memoryClock": "MHz",
    }
    for where, field in _fields():
        unit = units.get(where.rpartition(".")[2])
        if unit is not None:
            assert unit.lower() in (field.description or "").lower(), where


def test_arguments_have_no_default_that_differs_by_spelling() -> None:
    """`first: null` is as good as none: what may be left out may be null."""
    for where, argument in _inputs():
        if argument.default_value is None:
            assert not isinstance(argument.type, GraphQLNonNull), where


def test_every_type_with_an_id_is_a_node_that_is_found() -> None:
    """Relay refetches any object by `node(id)`; tests/graphql_schema/test_ids.py has what it finds."""
    with_id = {
        type_.name
        for type_ in TYPES
        if isinstance(type_, GraphQLObjectType) and "id" in type_.fields
    }
    nodes = {
        type_.name
        for type_ in TYPES
        if isinstance(type_, GraphQLObjectType)
        and any(one.name == "Node" for one in type_.interfaces)
    }
    assert with_id == nodes == set(NODE_KINDS)


def test_what_is_made_comes_with_its_edge() -> None:
    """Relay's @prependEdge takes the edge of a list, of what `create...` and their like made."""
    payloads = {
        "AddSshKeyPayload": "sshKey",
        "AllocatePayload": "allocation",
        "CreateApiTokenPayload": "apiToken",
        "CreateEnrollmentPayload": "enrollment",
        "CreateUserPayload": "user",
        "CreateWorkspacePayload": "workspace",
        "RegisterDatasetPayload": "dataset",
    }
    making = {
        type_.name
        for type_ in TYPES
        if isinstance(type_, GraphQLObjectType)
        and type_.name.endswith("Payload")
        and type_.name.startswith(("Create", "Add", "Register", "Allocate"))
    }
    assert making == set(payloads)
    for payload, made in payloads.items():
        fields = cast("GraphQLObjectType", SCHEMA.type_map[payload]).fields
        node, edge = (str(fields[name].type) for name in (made, f"{made}Edge"))
        assert edge == f"{node}Edge"


async def test_an_edge_stands_where_its_list_has_it(plane: ControlPlane) -> None:
    ada = await as_user()
    add = (
        "mutation M($input: AddSshKeyInput!) { addSshKey(input: $input) "
        "{ sshKeyEdge { cursor node { id } } warning } }"
    )
    made = [
        (await data_of(plane, ada, add, {"input": {"name": name, "publicKey": make_key_line()}}))[
            "addSshKey"
        ]
        for name in ("one", "two")
    ]
    assert [one["warning"] for one in made] == [None, None]
    query = "{ viewer { sshKeys { edges { cursor node { id } } } } }"
    listed = (await data_of(plane, ada, query))["viewer"]["sshKeys"]["edges"]
    assert [one["sshKeyEdge"] for one in reversed(made)] == listed
