import json
from typing import Any

from tortoise import fields
from tortoise.fields.base import OnDelete
from tortoise.migrations import operations as ops

from remotegpu_core.database import migration
from remotegpu_core.ids import new_id
from remotegpu_core.models.machine_address import AddressSource
from remotegpu_protocol.addresses import is_reachable, parse_address
from remotegpu_protocol.inventory import AddressKind

#: The columns that an address of before gets, in their order.
_COLUMNS = (
    *("id", "machine_id", "scope", "address", "kind", "interface", "source", "held"),
    *("accepted_at", "accepted_reason", "created_at"),
)
#: How agents of that time told interfaces of containers and virtual machines from others.
_INTERNAL = (
    *("docker", "podman", "nerdctl", "veth", "br-", "cni", "flannel", "cali", "kube-", "crio"),
    *("virbr", "lxcbr", "lxdbr", "incusbr", "vnet", "vmnet", "vboxnet", "tmfifo_net"),
)
_BEFORE = "Another machine had this address already when addresses began to be compared."


async def fill(_apps: object, editor: Any) -> None:
    """Rows for what hosts said before, so that who was there first has an address.

    Of machines that share one, the oldest holds it; the others are accepted as they are: nothing
    is taken out of service by an update.
    """
    client = editor.client
    sites = {
        str(row["machine_id"]): row["value"]
        for row in await client.execute_query_dict(
            "SELECT machine_id, value FROM machine_label WHERE key = 'site'"
        )
    }
    machines = await client.execute_query_dict(
        "SELECT id, host, created_at FROM machine WHERE lifecycle <> 'RETIRED' "
        "ORDER BY created_at, id"
    )
    sqlite = client.capabilities.dialect == "sqlite"
    marks = ", ".join("?" if sqlite else f"${number}" for number in range(1, len(_COLUMNS) + 1))
    insert = f"INSERT INTO machine_address ({', '.join(_COLUMNS)}) VALUES ({marks})"  # noqa: S608 - columns of ours
    held: set[tuple[str, str]] = set()
    for machine in machines:
        host = machine["host"]
        host = json.loads(host) if isinstance(host, str | bytes) else host
        own: set[str] = set()
        for said in (host or {}).get("addresses", []):
            address = parse_address(said.get("address"))
            interface = said.get("interface")
            if (
                address is None
                or not is_reachable(address)
                or (interface or "").startswith(_INTERNAL)
                or str(address) in own
            ):
                continue
            own.add(str(address))
            site = sites.get(str(machine["id"]), "")
            scope = "" if address.is_global else f"site:{site}"
            first = (scope, str(address)) not in held
            held.add((scope, str(address)))
            row_id = new_id()
            values = [
                str(row_id) if sqlite else row_id,
                machine["id"],
                scope,
                str(address),
                str(said.get("kind", AddressKind.ADDITIONAL)),
                interface,
                str(AddressSource.AGENT),
                first,
                None if first else machine["created_at"],
                None if first else _BEFORE,
                machine["created_at"],
            ]
            await client.execute_query(insert, values)


class Migration(migration.Migration):
    """Addresses of machines, each held by one."""

    dependencies = [("remotegpu", "0008_datasets")]

    initial = False

    operations = [
        ops.CreateModel(
            name="MachineAddress",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                (
                    "machine",
                    fields.ForeignKeyField(
                        "remotegpu.Machine",
                        source_field="machine_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="addresses",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                (
                    "scope",
                    fields.CharField(description="See `services.addresses.scope`.", max_length=262),
                ),
                ("address", fields.CharField(max_length=45)),
                (
                    "kind",
                    fields.CharEnumField(
                        description="MANAGEMENT: MANAGEMENT\nPUBLIC: PUBLIC\nADDITIONAL: ADDITIONAL",
                        enum_type=AddressKind,
                        max_length=16,
                    ),
                ),
                ("interface", fields.CharField(null=True, max_length=255)),
                (
                    "source",
                    fields.CharEnumField(
                        description="AGENT: AGENT\nADMIN: ADMIN",
                        enum_type=AddressSource,
                        max_length=8,
                    ),
                ),
                ("held", fields.BooleanField()),
                ("accepted_at", fields.BigIntField(null=True)),
                ("accepted_reason", fields.CharField(null=True, max_length=500)),
                ("created_at", fields.BigIntField()),
            ],
            options={
                "table": "machine_address",
                "app": "remotegpu",
                "unique_together": (("machine", "address"),),
                "pk_attr": "id",
                "table_description": "An IP address of a machine, in the one spelling that `remotegpu_protocol.addresses` gives it.",
            },
            bases=["Model"],
        ),
        # One machine has an address in a scope. Contested rows do not count.
        ops.RunSQL(
            "CREATE UNIQUE INDEX address_of_one_machine ON machine_address (scope, address) "
            "WHERE held",
            reverse_sql="DROP INDEX address_of_one_machine",
        ),
        # Those are looked at every few seconds, and there are hardly ever any.
        ops.RunSQL(
            "CREATE INDEX contested_address ON machine_address (machine_id) WHERE NOT held",
            reverse_sql="DROP INDEX contested_address",
        ),
        ops.RunPython(fill, ops.RunPython.noop),
    ]
