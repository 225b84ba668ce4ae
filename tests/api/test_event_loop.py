"""Names with several addresses, of which the first takes no connection (RFC 8305)."""

from pathlib import Path

from tests.services.dead_address import run_beside_a_dead_address
from tests.services.postgres import PostgresServer
from tests.services.redis import running_redis


def test_the_control_plane_reaches_what_it_needs(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    with running_redis() as redis:
        run_beside_a_dead_address(
            Path(__file__).parent / "dialling.py",
            tmp_path,
            str(postgres_server.socket),
            redis.socket_url.removeprefix("unix://").partition("?")[0],
        )
