"""The redis sink: a stream with one entry an event; an event that comes again within a window adds none.

It owns one connection. Which ids it has seen stands in a key beside the stream. Errors: ``redis_errors``.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis as Client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import InvalidResponse, MovedError, RedisError, ResponseError

from gateway.config import RedisSink
from gateway.errors import Unavailable
from gateway.event import Event
from gateway.sinks import Failures
from gateway.sinks.redis_errors import unavailable

_log = logging.getLogger(__name__)
_CONNECT_TIMEOUT_S = 10.0
_PORT = 6379
_MOVES = 3
_SETTINGS = ("appendonly", "appendfsync", "save", "maxmemory", "maxmemory-policy")
_SYNCS = {
    "always": ("writes to disk before it answers (appendfsync always)", True),
    "everysec": (
        "writes to disk each second (appendfsync everysec); its machine's crash loses at most two",
        True,
    ),
    "no": ("leaves writing to disk to its system (appendfsync no), which may take half a minute", False),
}
# One script, so that no other writer comes between the look and the entry; no event is marked before its
# entry stands, so that an error in between repeats one and loses none. Old ids go at the end and a few at a
# time: a write before the first XADD would lift Redis' check of its memory, and a million at once would
# hold up everybody. Source: redis.io/docs/latest/develop/programmability/lua-api, and script.c of Redis 7.
_SCRIPT = """
local stream, seen = KEYS[1], KEYS[2]
local window_ms, max_len = tonumber(ARGV[1]), tonumber(ARGV[2])
redis.call('XLEN', stream)
if #ARGV == 2 then return 0 end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local since_ms, added = now_ms - window_ms, 0
for at = 3, #ARGV, 5 do
  local seen_ms = redis.call('ZSCORE', seen, ARGV[at])
  if not seen_ms or tonumber(seen_ms) <= since_ms then
    redis.call('XADD', stream, '*', 'id', ARGV[at + 1], 'source', ARGV[at + 2], 'type', ARGV[at + 3],
      'event', ARGV[at + 4])
    redis.call('ZADD', seen, now_ms, ARGV[at])
    added = added + 1
  end
end
if added > 0 then
  if max_len > 0 then redis.call('XTRIM', stream, 'MAXLEN', '~', max_len) end
  local old = math.min(redis.call('ZCOUNT', seen, '-inf', since_ms), 1000 + 2 * added)
  if old > 0 then redis.call('ZREMRANGEBYRANK', seen, 0, old - 1) end
  redis.call('PEXPIRE', seen, window_ms)
end
return added
"""


class Redis:
    """Entries of the stream have ``id``, ``source``, ``type`` and ``event``, the event's own JSON."""

    def __init__(self, config: RedisSink, name: str) -> None:
        self._config = config
        self._name = name
        self._url = urlsplit(config.url.get_secret_value())
        self._where = f"{self._url.hostname}:{self._url.port or _PORT}"
        self._keys = (config.stream, seen_key(config.stream))
        self._client: Client | None = None
        self._moved: tuple[str, int] | None = None
        self._said = ""

    async def open(self) -> None:
        """Connect, and say once how durable this Redis is. Raises Unavailable, see ``redis_errors``."""
        if self._client is not None:
            return
        for _ in range(_MOVES):
            async with self._in_time_or_dropped():
                try:
                    self._client = self._connect()
                    await self._run(self._client, [])
                except MovedError as moved:
                    # Why: in a cluster one node has the stream, and after a failover another one.
                    await self._drop()
                    self._moved = (moved.host or str(self._url.hostname), moved.port)
                    continue
                await self._tell_durability(self._client)
                return
        raise Unavailable("moved", f"Redis {self._where}: its nodes don't agree on who has the stream.")

    async def write(self, events: Sequence[Event]) -> Failures:
        """Add *events* to the stream, those aside that came within the window. Raises Unavailable.

        Some may be written then; they add nothing when they come again.
        """
        client = self._client
        if client is None:
            raise Unavailable("not_open", f"Redis {self._where}: not connected.")
        if events:
            async with self._in_time_or_dropped():
                await self._run(client, events)
        return {}

    async def close(self) -> None:
        """Close the connection."""
        await self._drop()

    def _connect(self) -> Client:
        """Return a client that connects with its first command."""
        host, port = self._moved or (str(self._url.hostname), self._url.port or _PORT)
        return Client(
            host=host,
            port=port,
            db=int(self._url.path[1:] or 0),
            username=unquote(self._url.username or "") or None,
            password=unquote(self._url.password or "") or None,
            ssl=self._url.scheme == "rediss",
            ssl_ca_certs=str(self._config.tls_ca) if self._config.tls_ca else None,
            ssl_check_hostname=True,
            protocol=2,  # Why: what Redis 5 speaks, too
            client_name=f"im-callback-gateway:{self._name}",
            # Why none: the driver would send within wait_for, which before Python 3.12 can swallow a cancel.
            socket_timeout=None,
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),  # the worker tries again
            max_connections=1,
        )

    async def _run(self, client: Client, events: Sequence[Event]) -> None:
        arguments: list[str | bytes | int] = [int(self._config.window_s * 1000), self._config.max_len]
        for event in events:
            arguments += (_member(event), *map(_plain, (event.id, event.source, event.type)), event.body)
        # Why not its hash alone: a Redis that restarts forgets scripts, and this one is short beside a batch.
        added = await client.eval(_SCRIPT, len(self._keys), *self._keys, *arguments)
        if not isinstance(added, int):
            raise InvalidResponse("the answer is not one of our script")

    async def _tell_durability(self, client: Client) -> None:
        settings: dict[str, str] = {}
        try:
            for name in _SETTINGS:
                settings |= {str(key): str(value) for key, value in (await client.config_get(name)).items()}
        except ResponseError:  # Why: who may not ask can still write
            settings = {}
        said, is_safe = durability(settings)
        if said == self._said:
            return
        self._said = said
        if is_safe:
            _log.info("Sink %s: Redis %s %s", self._name, self._where, said)
        else:
            _log.warning("Sink %s: Redis %s may lose what it took: it %s", self._name, self._where, said)

    async def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    @asynccontextmanager
    async def _in_time_or_dropped(self) -> AsyncIterator[None]:
        # Why: after a failure, or when the caller stopped waiting, nobody knows which answer comes next.
        try:
            async with asyncio.timeout(self._config.write_timeout_s):
                yield
        except BaseException as error:
            node = self._moved
            self._moved = (error.host, error.port) if isinstance(error, MovedError) and error.host else None
            try:
                await self._drop()
            except (RedisError, OSError):
                _log.debug("Sink %s: the connection was gone already", self._name)
            # Why ValueError: the driver raises it for numbers that are none, where no Redis answers.
            if isinstance(error, (RedisError, OSError, ValueError)):
                where = f"{self._where} (node {node[0]}:{node[1]})" if node else self._where
                raise unavailable(error, where) from error
            raise


def seen_key(stream: str) -> str:
    """Return the key of the ids seen; in a cluster it stands where the stream does."""
    return f"{stream}:seen" if "{" in stream else f"{{{stream}}}:seen"


def durability(settings: Mapping[str, str]) -> tuple[str, bool]:
    """Return what *settings* (of CONFIG GET; none: refused) mean, as half a sentence, and if it is safe."""
    if not settings:
        return "does not tell how durable it is: CONFIG GET is not allowed", True
    policy = settings.get("maxmemory-policy", "")
    if settings.get("maxmemory", "0") != "0" and policy.startswith("allkeys"):
        return f"drops whole keys, the stream too, when its memory is full (maxmemory-policy {policy})", False
    if settings.get("maxmemory", "0") != "0" and policy.startswith("volatile"):
        return f"forgets ids early when its memory is full (maxmemory-policy {policy})", False
    if settings.get("appendonly") == "yes":
        return _SYNCS[settings.get("appendfsync", "")]
    if settings.get("save"):
        return f"writes snapshots only (save {settings['save']}); a crash loses all after the last", False
    return "writes nothing to disk (appendonly no, no save); a restart loses the stream and the ids", False


def _member(event: Event) -> bytes:
    """Return a name for ``(source, id)`` of 16 bytes: others choose how long those are."""
    both = f"{len(event.source)} {event.source}{event.id}"
    return hashlib.blake2b(both.encode(errors="replace"), digest_size=16).digest()


def _plain(text: str) -> bytes:
    return text.encode(errors="replace")
