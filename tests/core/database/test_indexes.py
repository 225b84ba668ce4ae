"""What belongs to a row is found by an index, by the code and by the database itself."""

import pytest
from tortoise.connection import get_connection

pytestmark = pytest.mark.usefixtures("database")

#: Each foreign key, and each index without a condition, by its table and first column.
_SQLITE = """
SELECT DISTINCT t.name AS "table", k."from" AS "column"
FROM sqlite_master AS t, pragma_foreign_key_list(t.name) AS k WHERE t.type = 'table'
    AND NOT EXISTS (
        SELECT 1 FROM pragma_index_list(t.name) AS i, pragma_index_info(i.name) AS c
        WHERE i.partial = 0 AND c.seqno = 0 AND c.name = k."from")
"""
_POSTGRES = """
SELECT conrelid::regclass::text AS "table", a.attname::text AS "column"
FROM pg_constraint AS k
    JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
WHERE k.contype = 'f' AND NOT EXISTS (
    SELECT 1 FROM pg_index AS i
    WHERE i.indrelid = k.conrelid AND i.indpred IS NULL AND i.indkey[0] = k.conkey[1])
"""


async def test_every_foreign_key_begins_an_index() -> None:
    client = get_connection("default")
    sqlite = client.capabilities.dialect == "sqlite"
    assert await client.execute_query_dict(_SQLITE if sqlite else _POSTGRES) == []
