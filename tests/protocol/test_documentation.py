"""docs/protocol.md says what the code does: tables, vectors, examples and links."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import inspect, msgpack

from remotegpu_protocol import limits, messages
from remotegpu_protocol.codec import decode_from_agent, encode
from remotegpu_protocol.keys import verify_hello
from remotegpu_protocol.kinds import KINDS
from remotegpu_protocol.messages import Hello
from remotegpu_protocol.metrics import Metrics
from remotegpu_protocol.origin import normalise_origin
from remotegpu_protocol.statements import connect_statement, enroll_statement
from tests.protocol.shapes import MESSAGES, bare, struct_info, tag

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "protocol.md"
TEXT = PAGE.read_text("utf-8")
ORIGIN = "https://gpu.example.org"
#: Heading and its text up to the next heading.
SECTIONS = dict(re.findall(r"^#+ (.+)\n((?:(?!#+ ).*\n)*)", TEXT, re.MULTILINE))
VECTORS = {
    name: bytes.fromhex(value)
    for name, value in re.findall(r"^(\w+) = ([0-9a-f]+)$", TEXT, re.MULTILINE)
}


def structs() -> dict[str, inspect.StructType]:
    """Every struct that travels, by the heading it stands under in the page."""
    found: dict[str, inspect.StructType] = {}

    def visit(name: str, info: inspect.StructType) -> None:
        found[name] = info
        for field in info.fields:
            kind = bare(field.type)
            if isinstance(kind, inspect.ListType):
                kind = bare(kind.item_type)
            if isinstance(kind, inspect.StructType):
                visit(kind.cls.__name__, kind)

    for message in MESSAGES:
        visit(tag(message), struct_info(message))
    for kind in KINDS.values():
        for shape in (kind.arguments, kind.result):
            if shape.__struct_fields__:
                visit(shape.__name__, struct_info(shape))
    return found


def tables_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/protocol_tables.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def code_cells(section: str, column: int) -> list[str]:
    rows = [line.strip("| ").split("|") for line in section.splitlines() if line.startswith("|")]
    return [row[column].strip(" `") for row in rows[2:]]


def test_the_page_is_up_to_date() -> None:
    checked = tables_script()
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("| 0 to 100 |", "| 0 to 200 |", "out of date"),
        ("| `fatal` |", "| `deadly` |", "out of date"),
        ("| 5 | `load1` |", "| 6 | `load1` |", "out of date"),
        ("<!-- table: hello -->", "<!-- table: hallo -->", "missing: ['hello']"),
        ("NVML's bit mask of why clocks are lowered (`nvmlClocksEventReasons`)", "", "GpuMetrics"),
    ],
)
def test_a_stale_page_is_found_and_renewed(
    tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    assert old in TEXT
    page = tmp_path / "protocol.md"
    page.write_text(TEXT.replace(old, new), "utf-8")

    checked = tables_script("--page", str(page))

    assert checked.returncode == 1
    assert complaint in checked.stderr
    if complaint == "out of date" and "fatal" not in old:
        written = tables_script("--write", "--page", str(page))
        assert written.returncode == 0
        assert page.read_text("utf-8") == TEXT


@pytest.mark.parametrize("name", structs())
def test_every_field_has_its_row_in_the_order_of_the_wire(name: str) -> None:
    """Read without the script that writes the tables, so that a fault there shows too."""
    info = structs()[name]
    section = SECTIONS[name]
    assert code_cells(section, 1 if info.array_like else 0) == [f.encode_name for f in info.fields]
    if info.array_like:
        assert code_cells(section, 0) == [str(n) for n in range(len(info.fields))]
        assert section.startswith("\nAn array.\n")


def test_nothing_is_described_that_does_not_exist() -> None:
    headings = re.findall(r"^#{4,5} (.+)$", TEXT, re.MULTILINE)
    enums = {"AddressKind", "DriverState", "EventState", "GpuHealth", "IsolationKind", "SourceKind"}
    assert set(headings) == set(structs()) | enums
    assert len(headings) == len(set(headings))


def test_the_connect_vector() -> None:
    key = Ed25519PrivateKey.from_private_bytes(VECTORS["seed"])
    assert key.public_key().public_bytes_raw() == VECTORS["public_key"]
    statement = connect_statement(
        machine_id="mach_42",
        origin=ORIGIN,
        server_nonce=VECTORS["server_nonce"],
        agent_nonce=VECTORS["agent_nonce"],
        versions=[1],
    )
    assert statement == VECTORS["connect_statement"]
    assert key.sign(statement) == VECTORS["connect_signature"]

    hello = decode_from_agent(VECTORS["hello_frame"])
    assert hello == Hello(
        machine_id="mach_42",
        origin=ORIGIN,
        nonce=VECTORS["agent_nonce"],
        versions=[1],
        signature=VECTORS["connect_signature"],
        agent_version="1.0",
        boot_id="b5a1",
        clock=1_800_000_000_000,
    )
    assert isinstance(hello, Hello)
    verify_hello(hello, public_key=VECTORS["public_key"], nonce=VECTORS["server_nonce"])
    assert encode(hello) == VECTORS["hello_frame"]


def test_the_enrol_vector() -> None:
    key = Ed25519PrivateKey.from_private_bytes(VECTORS["seed"])
    statement = enroll_statement(
        token="token-42",
        public_key=VECTORS["public_key"],
        origin=ORIGIN,
        server_nonce=VECTORS["server_nonce"],
        versions=[1],
    )
    assert statement == VECTORS["enroll_statement"]
    assert key.sign(statement) == VECTORS["enroll_signature"]


def test_the_statement_is_what_the_page_says_in_words() -> None:
    """Put together from the page alone, as the author of another agent would."""
    parts = [
        b"remotegpu agent connect v1",
        b"mach_42",
        ORIGIN.encode(),
        VECTORS["server_nonce"],
        VECTORS["agent_nonce"],
        b"1",
    ]
    assert VECTORS["connect_statement"] == b"".join(
        len(part).to_bytes(4, "big") + part for part in parts
    )
    for tag_line in ("remotegpu agent connect v1", "remotegpu agent enroll v1"):
        assert f"`{tag_line}`" in SECTIONS["What is signed"]


def test_the_metrics_example() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    assert msgpack.decode(VECTORS["metrics_frame"]) == json.loads(example)
    sample = decode_from_agent(VECTORS["metrics_frame"])
    assert isinstance(sample, Metrics)
    assert encode(sample) == VECTORS["metrics_frame"]


def test_the_examples_of_origins() -> None:
    rows = re.findall(r"^\| `(\S+)` \| `(\S+)` \|$", SECTIONS["Origins"], re.MULTILINE)
    assert len(rows) == 4
    for dialled, origin in rows:
        assert normalise_origin(dialled) == origin


def test_reserved_types_are_those_of_the_code_and_unused() -> None:
    reserved = set(re.findall(r"`(\w+)`", SECTIONS["Reserved types"].split("are reserved")[0]))
    assert reserved == set(re.findall(r"`(\w+)`", messages.__doc__ or "")) - {"type"}
    assert not reserved & {tag(message) for message in MESSAGES}


def test_times_in_the_prose_are_those_of_the_code() -> None:
    timing = SECTIONS["Timing"]
    for line in (
        f"| either | {limits.HELLO_TIMEOUT:g} s after",
        f"| agent | every {limits.HEARTBEAT_INTERVAL:g} s, ± 10 % |",
        f"| agent | {limits.LINK_SILENCE:g} s: close 1001",
        f"| control plane | {limits.UNREACHABLE_AFTER:g} s: close 1001",
        f"| control plane | {limits.LOST_AFTER:g} s: the machine is LOST",
        f"| agent | every {limits.INVENTORY_RETRY:g} s: send it again",
    ):
        assert line in timing
    assert f"at most {limits.MAX_MESSAGE_BYTES:,} bytes" in SECTIONS["Framing"]
    assert f"the {limits.MAX_INVALID_MESSAGES + 1}st at once" in SECTIONS["Errors"]
    assert (
        f"more than {limits.MESSAGE_BURST:g} messages at once, {limits.MESSAGE_RATE:g} a second"
        in SECTIONS["Errors"]
    )
    assert f"Up to {limits.CLOCK_SKEW_TOLERANCE:g} seconds" in SECTIONS["Clocks"]
    assert f"`{limits.SUBPROTOCOL}`" in SECTIONS["Transport"]


def test_links_lead_somewhere() -> None:
    anchors = {
        re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    }
    links = set(re.findall(r"\]\(#([\w-]+)\)", TEXT))
    assert links
    assert links <= anchors
