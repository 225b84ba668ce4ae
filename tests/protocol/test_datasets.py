"""The grammar of data sets, against what people and attackers write."""

import posixpath
import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotegpu_protocol.datasets import (
    MAX_PATH,
    SourceKind,
    check_endpoint,
    check_location,
    check_mount_path,
    nfs_parts,
    s3_parts,
)
from remotegpu_protocol.errors import InvalidMessage, InvalidValue
from remotegpu_protocol.kinds import (
    DATASET_MOUNT,
    DATASET_UNMOUNT,
    DatasetMount,
    DatasetUnmount,
    pack_arguments,
    read_arguments,
)

#: Put into every place where a text goes: none of it may pass anywhere.
INJECTIONS = [
    *("..", "../etc", "a/../../etc", "./a", "a/.", "a//b", "/", "//", ""),
    *("a\nb", "a\n", "\na", "a\0b", "a\tb", "a\rb", "a\x1b[31m", "a\x7f"),
    *("$(touch /tmp/canary)", "`id`", "a;id", "a|id", "a&id", "a>b", "a<b", "a'b", 'a"b', "a\\b"),
    *("a,exec", "a,suid,dev", "a,uid=0", "*", "a?b", "[ab]", "{a,b}", "a#b", "a%2e%2e", "a%00"),
    *("a\u2044etc", "a\u202eb", "ａ", "٣", "a\u200bb", "a\u00a0b", "\ud800", "é"),
]
PATHS = ["/data/imagenet", "/datasets/a/b/c/d/e/f/g", "/mnt/x_1.2+3@4-5", f"/data/{'a' * 128}"]
NO_PATHS = [
    *("/", "/data", "/data/", "/mnt/a/", "data/a", "/Data/a", "/database/a", "/etc/a", "/home/ada"),
    *("/data/.a", "/data/-a", "/data/--bind", "/data/+a", "/data/@a", "/data/a b", "/data/~"),
    *("/data/.", "/data/..", "/data/a/..", "/data/../etc", "/data//a", "//data/a", " /data/a"),
    *(f"/data/{'a' * 129}", "/data" + "/a" * 8, "/data/a:b", "/data/a=b", "/data/a,b"),
]
LOCATIONS = {
    SourceKind.DIRECTORY: ["/srv/imagenet", "/srv/my data/v=1/~x/.hidden/a:b@c", f"/{'a' * 255}"],
    SourceKind.NFS: [
        *("nas:/export", "nas.example.org:/export/a b/c", "192.0.2.7:/x", "[2001:db8::1]:/export/a")
    ],
    SourceKind.S3: [
        "s3://models",
        "s3://models/imagenet/v=1",
        "s3://a-b.c9/x_y@z+1",
        "s3://abc/-x",
    ],
}
NO_LOCATIONS = {
    SourceKind.DIRECTORY: [
        *("/", "srv", "srv/a", "/srv/", "/srv/..", "/srv/../etc", "/srv/.", "/srv//a", "nas:/a"),
        *(
            "s3://models",
            "file:///srv",
            f"/{'a' * 256}",
            "/a" * 513,
            "-o",
            "/srv/a,b",
            "\\\\nas\\a",
        ),
    ],
    SourceKind.NFS: [
        *("nas", "nas:", "nas:export", ":/export", "-o:/export", "nas:/", "nas:/a/..", "nas:/a,b"),
        *("a b:/export", "nas;id:/a", "u@nas:/a", "nas:2049:/a", "::1:/a", "[::1:/a", "[]:/a"),
        *("[;]:/a", "nas.:/a", ".nas:/a", "nas-:/a", "/srv/a", "nfs://nas/export", "nas://a"),
    ],
    SourceKind.S3: [
        *("models", "s3:/models", "s3://", "s3://a", "s3://A-B", "S3://models", "s3://mo_dels"),
        *("s3://-models", "s3://models-", "s3://.models", "s3://mo..dels", "s3://models/../x"),
        *("s3://models/.", "s3://models//x", "s3://models//", "s3://models/a b", "s3://models/a:b"),
        *("s3://models?x=1", "s3://models#x", "s3://u@models", f"s3://{'a' * 64}", "http://models"),
        *("s3://mo:dels", "s3://models,uid=0", "s3://models/a,uid=0", "s3://models/%2e%2e"),
    ],
}
ENDPOINTS = [
    *("https://s3.example.org", "http://127.0.0.1:9000", "https://minio:9000", "https://[::1]:9000")
]
NO_ENDPOINTS = [
    *("", "s3.example.org", "ftp://s3.example.org", "file:///etc/passwd", "https://", "https:///a"),
    *("https://u:p@s3.example.org", "https://s3.example.org/path", "https://s3.example.org?x=1"),
    *("https://s3.example.org#x", "https://s3.example.org:0", "https://s3.example.org:65536"),
    *("https://s3.example.org:", "https://s3.example.org:9000x", "https://s3 .example.org"),
    *("https://s3.example.org\n", "https://s3.exa\nmple.org", " https://a", "https://a\\@b"),
    *("https://-o", "https://a,uid=0", "https://a//", "https://[", "https://[x]", "https://a:٣"),
    f"https://{'a.' * 600}org",
]


def mount(**changes: object) -> DatasetMount:
    values = {
        "mount_id": "m1",
        "allocation_id": "a1",
        "account": "rg-abcdefghijkl",
        "kind": SourceKind.DIRECTORY,
        "location": "/srv/imagenet",
        "path": "/data/imagenet",
        "read_only": True,
    } | changes
    return msgspec.convert(values, DatasetMount)


@pytest.mark.parametrize("path", PATHS)
def test_paths(path: str) -> None:
    assert check_mount_path(path) == path


@pytest.mark.parametrize(
    "path", [*NO_PATHS, *INJECTIONS, *(f"/data/{injection}" for injection in INJECTIONS)]
)
def test_where_nothing_is_mounted(path: str) -> None:
    with pytest.raises(InvalidValue, match="/data"):
        check_mount_path(path)


@pytest.mark.parametrize(
    ("kind", "location"), [(kind, one) for kind, some in LOCATIONS.items() for one in some]
)
def test_locations(kind: SourceKind, location: str) -> None:
    assert check_location(kind, location) == location


@pytest.mark.parametrize(
    ("kind", "location"),
    [(kind, one) for kind, some in NO_LOCATIONS.items() for one in some]
    + [
        (kind, before + injection)
        for kind, before in (
            (SourceKind.DIRECTORY, ""),
            (SourceKind.DIRECTORY, "/srv/"),
            (SourceKind.NFS, ""),
            (SourceKind.NFS, "nas:/a/"),
            (SourceKind.S3, ""),
            (SourceKind.S3, "s3://models/b/"),
        )
        for injection in INJECTIONS
        # A slash at the end of a bucket's prefix is taken off.
        if not (kind is SourceKind.S3 and injection == "")
    ],
)
def test_what_is_no_location(kind: SourceKind, location: str) -> None:
    with pytest.raises(InvalidValue, match="like"):
        check_location(kind, location)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_endpoints(endpoint: str) -> None:
    assert check_endpoint(endpoint) == endpoint
    assert check_endpoint(f"{endpoint}/") == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [*NO_ENDPOINTS, *INJECTIONS, *(f"https://a{one}" for one in INJECTIONS if one != "/" and one)],
)
def test_what_is_no_endpoint(endpoint: str) -> None:
    with pytest.raises(InvalidValue, match="endpoint"):
        check_endpoint(endpoint)


def test_parts() -> None:
    assert nfs_parts("nas.example.org:/export/a") == ("nas.example.org", "/export/a")
    assert nfs_parts("[2001:db8::1]:/export") == ("2001:db8::1", "/export")
    with pytest.raises(InvalidValue):
        nfs_parts("nas")
    assert s3_parts("s3://models") == ("models", "")
    assert s3_parts("s3://models/a/b") == ("models", "a/b")
    assert check_location(SourceKind.S3, "s3://models/a/") == "s3://models/a"


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(st.sampled_from("/.-a~ :,\n\0\\@[]=%"), max_size=30),
    kind=st.sampled_from(SourceKind),
)
def test_what_passes_stays_where_it_says(text: str, kind: SourceKind) -> None:
    """By other means than the grammar's own: what the path means to the system."""
    for before, check in (
        ("", check_mount_path),
        ("/data/", check_mount_path),
        *(
            (start, lambda one: check_location(kind, one))
            for start in ("", "/", "nas:/", "s3://aaa/")
        ),
    ):
        given_ = before + text
        try:
            checked = check(given_)
        except InvalidValue:
            continue
        path = re.sub(r"^(s3:/|[^/]*:)(?=/)", "", checked)
        assert posixpath.normpath(path) == path
        assert path.startswith("/")
        assert not checked.startswith("-")
        assert not set(checked) & set("\n\0\\,%")
        assert len(checked) <= MAX_PATH
        if check is check_mount_path:
            assert path.startswith(("/data/", "/datasets/", "/mnt/"))


@pytest.mark.parametrize(
    "changes",
    [
        *({"path": path} for path in NO_PATHS),
        *({"location": location} for location in NO_LOCATIONS[SourceKind.DIRECTORY]),
        *({"mount_id": one} for one in [*INJECTIONS, "a" * 65, "-a", "a.b", "_a"]),
        *({"account": one} for one in ["root", "ada", "rg-ABCDEFGHIJKL", "rg-abcdefghijkl\n"]),
        {"endpoint": "https://s3.example.org"},
        {"kind": "S3"},
        {"kind": "S3", "location": "s3://models/"},
        {"kind": "S3", "location": "s3://models", "endpoint": "https://s3.example.org/"},
        {"kind": "S3", "location": "s3://models", "endpoint": "https://u:p@s3.example.org"},
        {"kind": "TMPFS"},
        {"kind": "DIRECTORY", "options": "suid"},
    ],
)
def test_a_host_reads_nothing_else(changes: dict[str, object]) -> None:
    """As a control plane that was taken over might send it."""
    sent = msgspec.to_builtins(mount()) | changes
    try:
        packed = msgspec.msgpack.encode(sent)
    except UnicodeEncodeError:
        return
    with pytest.raises(InvalidMessage, match=r"dataset\.mount"):
        read_arguments("dataset.mount", packed)


def test_what_is_read_is_what_was_written() -> None:
    for arguments in (
        mount(),
        mount(read_only=False),
        mount(kind="NFS", location="nas:/export"),
        mount(kind="S3", location="s3://models/a", endpoint="http://127.0.0.1:9000"),
    ):
        assert (
            read_arguments("dataset.mount", pack_arguments(DATASET_MOUNT, arguments)) == arguments
        )
    unmount = DatasetUnmount("m1", "a1")
    assert read_arguments("dataset.unmount", pack_arguments(DATASET_UNMOUNT, unmount)) == unmount
    with pytest.raises(InvalidValue):
        DatasetMount("m1", "a1", "rg-abcdefghijkl", SourceKind.S3, "s3://models/", "/data/a", True)
