"""A connection to Redis for commands that are bytes already."""

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError


class Wire:
    """One connection of the client's own kind: TLS, password and database as its URL says.

    A pipeline packs each argument by itself, which at full speed is what ingest would mostly do.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._connection: AbstractConnection | None = None

    async def exchange(self, commands: bytes, answers: int) -> list[object]:
        """Send commands and wait for as many answers; one that is an error is in the list.

        Connects when it is not. After an exception the next exchange has a new connection.

        Raises:
            RedisError, OSError: there is no connection, or none any more.
        """
        connection = self._connection
        if connection is None:
            pool = self._redis.connection_pool
            connection = pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py's gap
            self._connection = connection
        found: list[object] = []
        try:
            await connection.send_packed_command(commands)
            for _ in range(answers):
                try:
                    found.append(await connection.read_response())
                except ResponseError as error:
                    found.append(error)
        except BaseException:
            # What was asked and not heard would be taken for the next one's answer.
            await self.close()
            raise
        return found

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
