"""docs/graphql.md says what is so."""

import ast
import re
from pathlib import Path

import pytest
from graphql import GraphQLEnumType, GraphQLScalarType, parse, validate

from remotegpu_api.live.messages import MAX_MESSAGE
from remotegpu_api.live.socket import INIT_TIMEOUT, MAX_SUBSCRIPTIONS
from remotegpu_api.web.admission import BODY_TIMEOUT
from remotegpu_api.web.graphql_endpoint import MAX_BODY
from remotegpu_core.errors import EnrollmentRefused, RemoteGPUError
from remotegpu_core.paging import DEFAULT_PAGE, MAX_PAGE
from remotegpu_core.services.api_tokens import MAX_TOKENS as MAX_API_TOKENS
from remotegpu_core.services.datasets.granting import MAX_GRANTS
from remotegpu_core.services.datasets.mounting import MAX_MOUNTS
from remotegpu_core.services.datasets.registry import MAX_DATASETS
from remotegpu_graphql.cost import COUNT_COST, LIST_SIZES, MAX_COST
from remotegpu_graphql.engine import Engine
from remotegpu_graphql.limits import (
    MAX_ALIASES,
    MAX_DEPTH,
    MAX_DIRECTIVES,
    MAX_FRAGMENTS,
    MAX_LENGTH,
    MAX_LENGTH_OF_STRANGERS,
    MAX_LINES,
    MAX_NESTING,
    MAX_NUMBER,
    MAX_OPERATIONS,
    MAX_PAIRS,
    MAX_SELECTIONS,
    MAX_TOKENS,
    MAX_TOKENS_OF_STRANGERS,
    MAX_VALUES,
)
from remotegpu_graphql.metrics.subscriptions import MAX_MACHINES
from remotegpu_graphql.nodes import MAX_NODES
from remotegpu_graphql.variable_bounds import MAX_VARIABLE_VALUES
from remotegpu_protocol.limits import MAX_SSH_KEYS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "graphql.md").read_text()
ENGINE = Engine()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def _documents() -> list[str]:
    """GraphQL in blocks of its own, in Python's strings and in the shell's requests."""
    inside_python = [
        match
        for block in _blocks("python")
        for match in re.findall(r'"""\n((?:query|subscription).*?)"""', block, re.DOTALL)
    ]
    in_requests = re.findall(r'^\{"query": "(.*?)",$', PAGE, re.MULTILINE)
    return [*_blocks("graphql"), *inside_python, *in_requests]


@pytest.mark.parametrize("source", _documents(), ids=range(len(_documents())))
def test_document_runs(source: str) -> None:
    assert validate(ENGINE.schema, parse(source)) == []
    ENGINE.prepare(source, None, signed_in=False)


def test_there_are_documents() -> None:
    assert len(_documents()) == 8


@pytest.mark.parametrize("source", _blocks("python"), ids=range(len(_blocks("python"))))
def test_program_can_be_read(source: str) -> None:
    ast.parse(source)


def _row(start: str) -> str:
    (row,) = re.findall(rf"^\| {re.escape(start)}.* \| (.*?) \|$", PAGE, re.MULTILINE)
    return str(row)


@pytest.mark.parametrize(
    ("start", "limit"),
    [
        ("characters of a document", MAX_LENGTH),
        ("lines of a document", MAX_LINES),
        ("tokens of a document", MAX_TOKENS),
        ("characters without sign-in", MAX_LENGTH_OF_STRANGERS),
        ("tokens without sign-in", MAX_TOKENS_OF_STRANGERS),
        ("operations of a document", MAX_OPERATIONS),
        ("fragments of a document", MAX_FRAGMENTS),
        ("selections of a document", MAX_SELECTIONS),
        ("pairs of selections", MAX_PAIRS),
        ("selection sets within each other", MAX_NESTING),
        ("values in arguments", MAX_VALUES),
        ("digits of a number", MAX_NUMBER),
        ("depth in fields", MAX_DEPTH),
        ("aliases of an operation", MAX_ALIASES),
        ("directives of an operation", MAX_DIRECTIVES),
        ("values in `variables`", MAX_VARIABLE_VALUES),
        ("cost of an operation", MAX_COST),
        ("page of a list", MAX_PAGE),
        ("ids of `nodes`", MAX_NODES),
        ("machines of one `machineMetrics`", MAX_MACHINES),
        ("API tokens of a user", MAX_API_TOKENS),
        ("SSH keys of a user", MAX_SSH_KEYS),
        ("datasets of an owner", MAX_DATASETS),
        ("grants on a dataset", MAX_GRANTS),
        ("mounts of an allocation", MAX_MOUNTS),
        ("operations at once on a websocket", MAX_SUBSCRIPTIONS),
        ("seconds until `connection_init`", int(INIT_TIMEOUT)),
        ("seconds until a request's body has come", int(BODY_TIMEOUT)),
    ],
)
def test_limit(start: str, limit: int) -> None:
    assert _row(start) == str(limit)


def test_limits_in_bytes() -> None:
    assert _row("body of a request") == f"{MAX_BODY // 1024} KiB"
    assert _row("message over websocket") == f"{MAX_MESSAGE // 1024} KiB"


def test_page_sizes_and_lists() -> None:
    assert f"{DEFAULT_PAGE} elements when neither is given, {MAX_PAGE} at most" in PAGE
    text = " ".join(PAGE.split())
    words = {
        "Query.gpuMemoryByUser": "users of GPU memory",
        "Machine.gpus": "GPUs",
        "GpuMetrics.processes": "processes",
        "Machine.labels": "labels",
        "Machine.addresses": "addresses",
        "MachineSpecs.disks": "disks",
        "Gpu.migDevices": "MIG slices",
        "Workspace.members": "members of a workspace",
        "AuditEvent.details": "details of an audit event",
        "Allocation.pendingReasons": "reasons",
        "AllocationReceipt.items": "items of a receipt",
        "Operation.steps": "steps of an operation",
        "Allocation.mounts": "mounts",
        "Dataset.grants": "grants on a dataset",
    }
    assert f"`totalCount` {COUNT_COST}" in text
    of_the_schema = {name for name in LIST_SIZES if name.startswith("__")}
    # These are GPUs and reasons as well.
    same = {
        "MachineMetrics.gpus",
        "Allocation.gpus",
        "AllocationPlan.gpus",
        "AllocationPlan.reasons",
    }
    assert set(words) | same == set(LIST_SIZES) - of_the_schema
    assert {LIST_SIZES[name] for name in same if name.endswith("gpus")} == {8}
    for name, word in words.items():
        assert f"{word} {LIST_SIZES[name]}" in text, name


def _codes(cls: type[RemoteGPUError]) -> set[str]:
    return {cls.code}.union(*(_codes(sub) for sub in cls.__subclasses__()))


def test_codes() -> None:
    codes = ENGINE.schema.type_map["ErrorCode"]
    assert isinstance(codes, GraphQLEnumType)
    tables = re.findall(r"^\| ((?:`[A-Z_]+`(?:, )?)+) \|", PAGE, re.MULTILINE)
    told = set(re.findall(r"`([A-Z_]+)`", " ".join(tables)))
    assert set(codes.values) <= told
    # Agents are told of refused enrolments, not viewers.
    assert _codes(RemoteGPUError) - _codes(EnrollmentRefused) <= told
    for code in ("GRAPHQL_PARSE_FAILED", "GRAPHQL_VALIDATION_FAILED", "BAD_REQUEST"):
        assert code in told


def test_scalars() -> None:
    ours = {
        name
        for name, type_ in ENGINE.schema.type_map.items()
        if isinstance(type_, GraphQLScalarType)
        and name not in {"String", "Int", "Float", "Boolean", "ID"}
    }
    for name in ours:
        assert f"\n| `{name}` | " in PAGE, name
        for generator in ("graphql-codegen", "genqlient", "graphql-client"):
            (row,) = re.findall(rf"^\| {generator} .*$", PAGE, re.MULTILINE)
            assert name in row


def test_links_within_the_page() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    }
    links = set(re.findall(r"\]\(#([^)]+)\)", PAGE))
    assert links
    assert links <= headings
    for path in re.findall(r"\]\((\.\./[^)#]+)\)", PAGE):
        assert (ROOT / "docs" / path).resolve().is_file(), path
