"""Registering, changing and removing datasets."""

import pytest
from tortoise.exceptions import IntegrityError

from remotegpu_core.actor import Actor, anonymous
from remotegpu_core.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Unauthenticated,
)
from remotegpu_core.ids import new_id
from remotegpu_core.models import AuditEvent, Dataset, Machine, Mount, WorkspaceRole
from remotegpu_core.paging import PageRequest
from remotegpu_core.services.datasets import registry
from remotegpu_core.services.datasets.reading import (
    DatasetFilter,
    DatasetOrderField,
    datasets_by_id,
    grants_of,
    list_datasets,
)
from remotegpu_core.services.datasets.registry import (
    DatasetChange,
    NewDataset,
    register_dataset,
    remove_dataset,
    update_dataset,
)
from remotegpu_core.services.datasets.sizes import measure_dataset
from remotegpu_core.services.datasets.source import Source
from remotegpu_core.services.workspaces import set_member
from remotegpu_core.settings import Settings
from remotegpu_core.states import DatasetVisibility, Lifecycle, MountState
from remotegpu_protocol.datasets import SourceKind
from tests.core.hosts import make_machine
from tests.core.people import make_admin, make_tenant
from tests.core.services.allocations.hosts import active
from tests.core.services.datasets.places import (
    NAS,
    make_dataset,
    make_lab,
    mounted,
    mounting_host,
)

pytestmark = pytest.mark.usefixtures("database")

PRIVATE, WORKSPACE, PUBLIC = DatasetVisibility


async def names(actor: Actor, **chosen: object) -> list[str]:
    page = await list_datasets(actor, PageRequest(), DatasetFilter(**chosen))  # type: ignore[arg-type]  # by the filter's own names
    assert await page.count() == len(page.rows)
    return [row.name for row in page.rows]


async def test_who_sees_what(settings: Settings, admin: Actor) -> None:
    ada, bob, carl = await make_tenant(), await make_tenant(), await make_tenant()
    lab = await make_lab(bob)
    own = await make_dataset(settings, ada, name="own")
    shared = await make_dataset(
        settings, ada, name="Shared", visibility=WORKSPACE, workspace_id=lab.id
    )
    public = await make_dataset(settings, ada, name="public", visibility=PUBLIC)
    rows = [own, shared, public]
    for actor, seen in (
        (ada, ["own", "public", "Shared"]),
        (admin, ["own", "public", "Shared"]),
        (bob, ["public", "Shared"]),
        (carl, ["public"]),
    ):
        assert await names(actor) == seen
        found = await datasets_by_id(actor, [row.id for row in rows])
        assert sorted(row.name.lower() for row in found.values()) == [n.lower() for n in seen]
    assert await datasets_by_id(anonymous(), [public.id]) == {}
    with pytest.raises(Unauthenticated):
        await names(anonymous())
    assert await names(bob, mine=True) == []
    assert await names(ada, text="SHA") == ["Shared"]
    assert await names(ada, text="%") == await names(ada, text="\x00") == []
    assert await names(ada, visibility=[PRIVATE, PUBLIC]) == ["own", "public"]
    assert await names(ada, kind=[SourceKind.S3]) == []
    assert await names(bob, workspace_id=lab.id) == ["Shared"]
    newest = await list_datasets(
        ada,
        PageRequest(first=1),
        DatasetFilter(),
        order_field=DatasetOrderField.CREATED_AT,
        descending=True,
    )
    assert [row.name for row in newest.rows] == ["public"]
    assert newest.has_next
    # Grants are for those who decide over them.
    assert set(await grants_of(bob, [shared.id, public.id])) == set()
    assert set(await grants_of(admin, [shared.id])) == {shared.id}


async def test_only_admins_name_places(settings: Settings, admin: Actor) -> None:
    ada, machine = await make_tenant(), await make_machine()
    open_ones = settings.model_copy(
        update={"dataset_sources": ["s3://open-*", "nas.example.org:/export/open/*"]}
    )
    sources = (
        Source(SourceKind.DIRECTORY, "/srv/x", machine_id=machine.id),
        Source(SourceKind.NFS, "nas.example.org:/export/closed"),
        Source(SourceKind.NFS, "nas.example.org.evil.org:/export/open/x"),
        Source(SourceKind.S3, "s3://closed/open-x"),
        # Another place, whatever the bucket is called.
        Source(SourceKind.S3, "s3://open-x", "http://127.0.0.1:1"),
    )
    for source in sources:
        with pytest.raises(Forbidden) as refused:
            await register_dataset(ada, open_ones, NewDataset("x", source))
        assert refused.value.field == ["source", "location"]
    with pytest.raises(NotFound):
        await register_dataset(
            ada, open_ones, NewDataset("x", NAS, owner_id=(await make_tenant()).user_id)
        )
    assert await Dataset.all().count() == 0
    row = await register_dataset(
        ada, open_ones, NewDataset("x", Source(SourceKind.NFS, "nas.example.org:/export/open/a"))
    )
    assert (row.owner_id, row.size) == (ada.user_id, None)
    assert row.size_reason == "Only what is in S3 is measured."
    for number, source in enumerate(sources[:3]):
        await register_dataset(admin, settings, NewDataset(f"n{number}", source))
    with pytest.raises(NotFound):
        await register_dataset(admin, settings, NewDataset("y", NAS, owner_id=new_id()))
    with pytest.raises(Unauthenticated):
        await register_dataset(anonymous(), settings, NewDataset("x", NAS))


async def test_a_directory_is_of_a_machine(settings: Settings, admin: Actor) -> None:
    machine = await make_machine()
    for source, error in (
        (Source(SourceKind.DIRECTORY, "/srv/x"), InvalidInput),
        (Source(SourceKind.NFS, NAS.location, machine_id=machine.id), InvalidInput),
        (Source(SourceKind.DIRECTORY, "/srv/x", machine_id=new_id()), NotFound),
    ):
        with pytest.raises(error) as refused:
            await register_dataset(admin, settings, NewDataset("x", source))
        assert refused.value.field == ["source", "machineId"]
    await Machine.filter(id=machine.id).update(lifecycle=Lifecycle.RETIRED)
    with pytest.raises(InvalidInput, match="retired"):
        await register_dataset(
            admin,
            settings,
            NewDataset("x", Source(SourceKind.DIRECTORY, "/srv/x", machine_id=machine.id)),
        )
    # And a constraint, whatever the code does.
    row = await make_dataset(settings, admin)
    for values in ({"machine_id": machine.id}, {"kind": "DIRECTORY"}, {"visibility": "WORKSPACE"}):
        with pytest.raises(IntegrityError):
            await Dataset.filter(id=row.id).update(**values)


LOCATIONS = (
    *((SourceKind.DIRECTORY, text) for text in ("", "/", "srv", "/srv/../etc", "/srv/$(id)")),
    *(
        (SourceKind.DIRECTORY, text)
        for text in ("/srv\n/etc", "/srv/x\x00", "/srv/a;b", "/srv/`id`")
    ),
    *(
        (SourceKind.NFS, text)
        for text in ("", "nas", "nas:", "nas:export", "-o rw nas:/x", "nas:/../x")
    ),
    *(
        (SourceKind.NFS, text)
        for text in ("a b:/x", "nas:/x,rw\n", "nas:/x;y", "nas:/x|y", "$(id):/x")
    ),
    *(
        (SourceKind.S3, text)
        for text in ("", "s3://", "s3://A", "s3://b/../c", "s3://b/x y", "http://b")
    ),
    *(
        (SourceKind.S3, text)
        for text in ("s3://b;c/x", "s3://bucket/$(id)", "s3://bucket/x\n", "bucket")
    ),
    *((SourceKind.S3, text) for text in ("s3://bucket/" + "x/" * 1000, "s3://bucket/\ud800")),
)
ENDPOINTS = (
    *("", "s3.example.org", "ftp://s3.example.org", "http://", "http://a/b", "http://u:p@a"),
    *(
        "http://a?x",
        "http://a#x",
        "http://a b",
        "http://a:99999",
        "file:///etc/passwd",
        "http://a\n",
    ),
    *("http://a\r\nHost: b", "http://[::1", "gopher://a", "http://a:0"),
)
NAMES = ("", " x", "x ", "a\nb", "x" * 65, "\ud800", "\u202ex", "İ" * 64)


async def test_what_is_outside_its_grammar_is_refused(settings: Settings, admin: Actor) -> None:
    machine = await make_machine()
    for kind, location in LOCATIONS:
        of = machine.id if kind is SourceKind.DIRECTORY else None
        source = Source(kind, location, machine_id=of)
        with pytest.raises(InvalidInput) as refused:
            await register_dataset(admin, settings, NewDataset("x", source))
        assert refused.value.field == ["source", "location"], location
    for endpoint in ENDPOINTS:
        source = Source(SourceKind.S3, "s3://bucket", endpoint)
        with pytest.raises(InvalidInput) as refused:
            await register_dataset(admin, settings, NewDataset("x", source))
        assert refused.value.field == ["source", "endpoint"], endpoint
    source = Source(SourceKind.NFS, NAS.location, "http://127.0.0.1:1")
    with pytest.raises(InvalidInput, match="Only S3"):
        await register_dataset(admin, settings, NewDataset("x", source))
    for name in NAMES:
        with pytest.raises(InvalidInput) as refused:
            await register_dataset(admin, settings, NewDataset(name, NAS))
        assert refused.value.field == ["name"], name
    assert await Dataset.all().count() == 0
    assert await AuditEvent.filter(action="registerDataset").count() == 0


async def test_a_name_is_once_an_owners(
    settings: Settings, admin: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, bob = await make_tenant(), await make_tenant()
    row = await make_dataset(settings, ada, name="ImageNet")
    with pytest.raises(Conflict) as taken:
        await make_dataset(settings, ada, name="imagenet")
    assert taken.value.field == ["name"]
    # Of another's, who need not know of it.
    await make_dataset(settings, bob, name="imagenet")
    other = await make_dataset(settings, ada, name="other")
    with pytest.raises(Conflict):
        await update_dataset(ada, other.id, DatasetChange(name="IMAGENET"))
    assert (await update_dataset(ada, row.id, DatasetChange(name="imagenet"))).name == "imagenet"
    monkeypatch.setattr(registry, "MAX_DATASETS", 2)
    with pytest.raises(LimitExceeded):
        await make_dataset(settings, ada)


async def test_sharing_with_a_workspace_takes_a_role_in_it(
    settings: Settings, admin: Actor
) -> None:
    ada, chief, stranger = await make_tenant(), await make_tenant(), await make_tenant()
    lab = await make_lab(ada, admin=chief)
    row = await make_dataset(settings, ada)
    share = DatasetChange(visibility=WORKSPACE, workspace_id=lab.id)
    with pytest.raises(Forbidden, match="takes ADMIN or OWNER"):
        await update_dataset(ada, row.id, share)
    other = await make_lab(stranger)
    with pytest.raises(NotFound):
        await update_dataset(
            ada, row.id, DatasetChange(visibility=WORKSPACE, workspace_id=other.id)
        )
    for change in (
        DatasetChange(visibility=WORKSPACE),
        DatasetChange(visibility=PUBLIC, workspace_id=lab.id),
        DatasetChange(workspace_id=lab.id),
    ):
        with pytest.raises(InvalidInput) as refused:
            await update_dataset(ada, row.id, change)
        assert refused.value.field == ["workspaceId"]
    assert (await Dataset.get(id=row.id)).visibility is PRIVATE
    await set_member(admin, lab.id, ada.user_id, WorkspaceRole.ADMIN)
    shared = await update_dataset(ada, row.id, share)
    assert (shared.visibility, shared.workspace_id) == (WORKSPACE, lab.id)
    # It stays shared when it is renamed, and whoever may share there can take it out, no more.
    assert (await update_dataset(ada, row.id, DatasetChange(name="new"))).workspace_id == lab.id
    for change in (DatasetChange(name="mine"), DatasetChange(visibility=PUBLIC)):
        with pytest.raises(Forbidden):
            await update_dataset(chief, row.id, change)
    with pytest.raises(NotFound):
        await update_dataset(stranger, row.id, DatasetChange(visibility=PRIVATE))
    withdrawn = await update_dataset(chief, row.id, DatasetChange(visibility=PRIVATE))
    assert (withdrawn.visibility, withdrawn.workspace_id) == (PRIVATE, None)
    assert await names(chief) == []


async def test_removing(settings: Settings, admin: Actor) -> None:
    ada, bob = await make_tenant(), await make_tenant()
    host = await mounting_host("node-1", grant=[bob])
    row = await make_dataset(settings, ada, visibility=PUBLIC)
    allocation = await active(bob, settings, host)
    there = await mounted(bob, row, allocation, "/data/x")
    for actor, error in ((bob, Forbidden), (anonymous(), Unauthenticated)):
        expected: type[Exception] = error
        for change in (remove_dataset, lambda a, i: measure_dataset(a, settings, i)):
            with pytest.raises(expected):
                await change(actor, row.id)
    # Where, to those who may see the place.
    with pytest.raises(Conflict, match=r"mounted: /data/x on node-1\. Unmount"):
        await remove_dataset(admin, row.id)
    with pytest.raises(Conflict, match=r"mounted: 1 times\. Unmount"):
        await remove_dataset(ada, row.id)
    # And a constraint, whatever the code does.
    with pytest.raises(IntegrityError):
        await Dataset.filter(id=row.id).delete()
    await Mount.filter(id=there.id).update(state=MountState.UNMOUNTED)
    assert (await remove_dataset(ada, row.id)).id == row.id
    with pytest.raises(NotFound):
        await remove_dataset(ada, row.id)
    assert await Mount.all().count() == await Dataset.all().count() == 0
    (event,) = await AuditEvent.filter(action="removeDataset")
    assert event.target_id == row.id


async def test_there_is_an_admin_like_any_other(settings: Settings) -> None:
    """Being one opens everything to see, and nothing to mount."""
    ada, root = await make_tenant(), await make_admin()
    row = await make_dataset(settings, ada, name="secret")
    assert await names(root) == ["secret"]
    host = await mounting_host("node-1")
    allocation = await active(root, settings, host)
    with pytest.raises(Forbidden):
        await mounted(root, row, allocation, "/data/x")
