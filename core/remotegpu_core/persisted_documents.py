"""Documents that callers name by their hash, as Apollo's automatic persisted queries have it.

Every replica finds what one was told, through Redis; without it each knows what it was told itself.
Nothing depends on a document being kept: a caller who names one that is gone sends it again.
"""

import hashlib
from typing import Final, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from remotegpu_core.actor import Actor
from remotegpu_core.bus import keys
from remotegpu_core.bus.connection import Breaker
from remotegpu_core.clock import now_ms
from remotegpu_core.recent import Recent

#: Bytes of one document; longer ones run, and are not kept.
MAX_DOCUMENT: Final = 32 * 1024
#: Documents in all, and their bytes; beyond that those used longest ago go.
MAX_DOCUMENTS: Final = 5_000
MAX_BYTES: Final = 32 * 1024 * 1024
#: Documents that one user may add in so many seconds, so that none can push out the others' soon.
MAX_ADDED: Final = 500
ADDED_WINDOW: Final = 3600
#: Seconds after which documents go that were neither added to nor asked for.
LIFETIME: Final = 7 * 24 * 3600

#: What one process holds besides, so that Redis is asked once for each.
_HELD: Final = 1_000
_HELD_BYTES: Final = 8 * 1024 * 1024

# The documents by digest, when each was used last, and their bytes in all; a count of the user's.
# Answers 1 when the document is kept.
_KEEP: Final = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  local added = redis.call('INCR', KEYS[4])
  if added == 1 then redis.call('EXPIRE', KEYS[4], ARGV[7]) end
  if added > tonumber(ARGV[6]) then return 0 end
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('INCRBY', KEYS[3], string.len(ARGV[2]))
end
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
while redis.call('ZCARD', KEYS[2]) > tonumber(ARGV[4])
    or tonumber(redis.call('GET', KEYS[3])) > tonumber(ARGV[5]) do
  local oldest = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
  if not oldest then break end
  local gone = redis.call('HGET', KEYS[1], oldest)
  redis.call('ZREM', KEYS[2], oldest)
  redis.call('HDEL', KEYS[1], oldest)
  redis.call('DECRBY', KEYS[3], string.len(gone or ''))
end
for place = 1, 3 do redis.call('EXPIRE', KEYS[place], ARGV[8]) end
return 1
"""

_FIND: Final = """
local found = redis.call('HGET', KEYS[1], ARGV[1])
if found then
  redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
  for place = 1, 3 do redis.call('EXPIRE', KEYS[place], ARGV[3]) end
end
return found
"""

_STORE: Final = (keys.DOCUMENTS, keys.DOCUMENTS_USED, keys.DOCUMENTS_BYTES)


def digest_of(source: str) -> str:
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()


class PersistedDocuments:
    """Documents by the SHA-256 of their text, which whoever adds one has checked."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._breaker = Breaker()
        self._held: Recent[str, str] = Recent(count=_HELD, weight=_HELD_BYTES)

    async def find(self, digest: str) -> str | None:
        """The document, None when it is not known here."""
        held = self._held.get(digest)
        if held is not None:
            return held
        try:
            async with self._breaker.question():
                found = await self._redis.eval(
                    _FIND, len(_STORE), *_STORE, digest, str(now_ms()), str(LIFETIME)
                )
        except (RedisError, OSError):
            return None
        if found is None:
            return None
        source = cast("bytes", found).decode()
        self._hold(digest, source)
        return source

    async def keep(self, actor: Actor, digest: str, source: str) -> None:
        """Keep a document of a user. What strangers send, or a user sends too much of, is not."""
        size = len(source.encode())
        if actor.user_id is None or size > MAX_DOCUMENT or digest in self._held:
            return
        try:
            async with self._breaker.question():
                kept = await self._redis.eval(
                    _KEEP,
                    len(_STORE) + 1,
                    *_STORE,
                    keys.documents_added_key(actor.user_id),
                    digest,
                    source,
                    str(now_ms()),
                    str(MAX_DOCUMENTS),
                    str(MAX_BYTES),
                    str(MAX_ADDED),
                    str(ADDED_WINDOW),
                    str(LIFETIME),
                )
        except (RedisError, OSError):
            # The bus says once that it is away; until it is back, this process knows it at least.
            kept = 1
        if kept:
            self._hold(digest, source)

    def _hold(self, digest: str, source: str) -> None:
        # Another request may have brought it while this one waited.
        if digest not in self._held:
            self._held.put(digest, source, len(source))
