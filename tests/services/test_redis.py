import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tests.services.process import ServerFailed
from tests.services.programs import find_program
from tests.services.redis import RedisServer


async def test_the_shared_server_is_empty_for_every_test(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as client:
        assert await client.dbsize() == 0
        await client.set("left", "behind")


# The same test again: it would fail if the first one's key were still there.
test_and_empty_again = test_the_shared_server_is_empty_for_every_test


async def test_it_listens_on_loopback_and_on_its_socket(private_redis: RedisServer) -> None:
    async with (
        Redis.from_url(private_redis.url) as tcp,
        Redis.from_url(private_redis.socket_url, decode_responses=True) as local,
    ):
        await tcp.set("key", "value")
        assert await local.get("key") == "value"
        assert await local.config_get("bind") == {"bind": "127.0.0.1"}


async def test_a_restart_keeps_the_port_and_loses_the_data(private_redis: RedisServer) -> None:
    port, pid = private_redis.port, private_redis.process.pid
    async with Redis.from_url(private_redis.url) as client:
        await client.set("key", "value")
    private_redis.restart()
    assert private_redis.port == port
    assert private_redis.process.pid != pid
    async with Redis.from_url(private_redis.url) as client:
        assert await client.get("key") is None


async def test_a_killed_server_refuses_connections(private_redis: RedisServer) -> None:
    private_redis.kill()
    async with Redis.from_url(private_redis.url, retry=None) as client:
        with pytest.raises(RedisConnectionError):
            await client.ping()
    with pytest.raises(ServerFailed, match="call start"):
        private_redis.pause()
    private_redis.start()
    async with Redis.from_url(private_redis.url) as client:
        assert await client.ping()


async def test_a_paused_server_answers_after_it_is_resumed(private_redis: RedisServer) -> None:
    async with Redis.from_url(private_redis.url, socket_timeout=0.2, retry=None) as client:
        private_redis.pause()
        with pytest.raises(RedisTimeoutError):
            await client.ping()
        private_redis.resume()
        assert await client.ping()


async def test_dropped_clients_lose_their_connection(private_redis: RedisServer) -> None:
    async with Redis.from_url(private_redis.url, retry=None) as client, client.pubsub() as channel:
        await channel.subscribe("news")
        assert await channel.get_message(timeout=5) is not None
        assert channel.connection is not None
        private_redis.drop_clients()
        with pytest.raises(RedisConnectionError):
            await channel.connection.read_response()


def test_it_dies_with_the_test_run_that_is_killed() -> None:
    program = (
        "import os, signal\n"
        "from tests.services.redis import running_redis\n"
        "with running_redis() as server:\n"
        "    print(server.process.pid, server.folder, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert done.returncode == -9
    pid, folder = done.stdout.split()
    # A run that is killed cleans nothing up.
    shutil.rmtree(folder)
    assert not _runs("redis-server", int(pid))


def test_a_missing_program_fails_and_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match="apt-get install no-such-package"):
        find_program("no-such-program", package="no-such-package")


def _runs(name: str, pid: int) -> bool:
    """Whether `pid` is a live process called `name` (and not a zombie, or another's)."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except FileNotFoundError:
            return False
        if name not in status or "State:\tZ" in status:
            return False
        time.sleep(0.01)
    return True
