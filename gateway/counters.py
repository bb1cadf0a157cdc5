"""Where limits are counted for all web processes together: in Redis, or in a table of PostgreSQL.

Both do the same three things with a counter, each in one step that no other process can come between: give some of what
is left (never more than is left), book what was used, hold places for calls at once until a moment. Responsible for the
statements, not for what is asked when. Neighbours: `throttle.py` (who asks), `respan.redis`, `models.LimitCounter`.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import psycopg

from gateway.windows import Window
from respan import pool, redis

# No limit: still a whole number in Lua.
ANY: Final = 1 << 52
# A counter that never begins anew is kept in Redis this long after its last call.
_KEPT_MS: Final = 400 * 86_400_000


# A host's clock may be behind: what ended so long ago, nobody counts in.
_ENDED_MS: Final = 86_400_000


class Unavailable(Exception):
    """The counters cannot be asked."""


class Key(NamedTuple):
    """A counter: of one organization, one version of a limit, one of those it counts."""

    organization_id: int
    policy_id: int
    revision: int
    subject: str


@dataclass(frozen=True, slots=True)
class Take:
    """Give up to `want` of what is left of `most` in a window; `want` 0 only looks, `most` ANY books in any case."""

    key: Key
    window: Window
    want: int
    most: int
    first_event: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """Let `owner` have `want` places of `most` until `until_ms` instead of those he had; fewer, where others hold."""

    key: Key
    owner: str
    want: int
    most: int
    now_ms: int
    until_ms: int


class Given(NamedTuple):
    """What was given; `used` is by all together, `ends_ms` when the window ends."""

    granted: int
    used: int
    ends_ms: int


class Store(Protocol):
    """Where counters are. No key may be asked twice in one `ask`."""

    # What a process is given at least, as a part of the whole; it spends that without asking again.
    share: int
    # How long a process may rely on what it last heard of tokens and cost.
    fresh_s: float

    async def ask(self, asks: Sequence[Take | Hold]) -> list[Given]:
        """Return what came of each. Raises: Unavailable."""
        ...


# --- PostgreSQL -------------------------------------------------------------------------------------------------------

# A window is over for a row when it ended before the one that is asked for begins.
_TAKE: Final = """
INSERT INTO gateway_limitcounter AS c
    (organization_id, policy_id, revision, subject, starts_ms, ends_ms, used, granted, most, holders)
SELECT o, p, r, s, starts, ends, least(want, most), least(want, most), most, '{}'
FROM unnest(%s::bigint[], %s::bigint[], %s::int[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
    AS asked(o, p, r, s, starts, ends, want, most)
ON CONFLICT (organization_id, policy_id, revision, subject) DO UPDATE SET
    (starts_ms, ends_ms, used, granted, most) = (
        SELECT CASE WHEN is_live THEN c.starts_ms ELSE excluded.starts_ms END,
               CASE WHEN is_live THEN c.ends_ms ELSE excluded.ends_ms END,
               before + given, given, excluded.most
        FROM (SELECT c.ends_ms > excluded.starts_ms AS is_live) AS a,
             LATERAL (SELECT CASE WHEN is_live THEN c.used ELSE 0 END AS before) AS b,
             LATERAL (SELECT greatest(0, least(excluded.granted, excluded.most - before)) AS given) AS d)
RETURNING organization_id, policy_id, revision, subject, granted, used, ends_ms
"""
_HOLD: Final = """
INSERT INTO gateway_limitcounter AS c
    (organization_id, policy_id, revision, subject, starts_ms, ends_ms, used, granted, most, holders)
VALUES (%(o)s, %(p)s, %(r)s, %(s)s, %(now)s, %(until)s, least(%(want)s::bigint, %(most)s), least(%(want)s, %(most)s),
        %(most)s, jsonb_build_object(%(owner)s::text, jsonb_build_array(least(%(want)s, %(most)s), %(until)s::bigint)))
ON CONFLICT (organization_id, policy_id, revision, subject) DO UPDATE SET
    (ends_ms, used, granted, most, holders) = (
        SELECT greatest(c.ends_ms, excluded.ends_ms), others + given, given, excluded.most,
               kept || CASE WHEN given = 0 THEN '{}'
                       ELSE jsonb_build_object(%(owner)s::text, jsonb_build_array(given, %(until)s::bigint)) END
        FROM (SELECT coalesce(sum((held ->> 0)::bigint), 0)::bigint AS others,
                     coalesce(jsonb_object_agg(name, held), '{}') AS kept
              FROM jsonb_each(c.holders) AS h(name, held)
              WHERE name <> %(owner)s AND (held ->> 1)::bigint > %(now)s) AS a,
             LATERAL (SELECT greatest(0, least(%(want)s::bigint, excluded.most - others)) AS given) AS b)
RETURNING granted, used, ends_ms
"""


class Postgres:
    """Counters in an unlogged table. A process is given a hundredth of a limit at a time."""

    share = 100
    fresh_s = 1.0

    async def ask(self, asks: Sequence[Take | Hold]) -> list[Given]:
        found: dict[Key, Given] = {}
        # In one order for all: two processes that ask for the same counters must not wait for each other.
        ordered = sorted(asks, key=lambda ask: ask.key)
        takes = [ask for ask in ordered if isinstance(ask, Take)]
        try:
            async with pool.connection() as connection:
                if takes:
                    for row in await (await connection.execute(_TAKE, _columns(takes))).fetchall():
                        found[Key(*row[:4])] = Given(*row[4:])
                for hold in ordered:
                    if isinstance(hold, Hold):
                        row = await (await connection.execute(_HOLD, _members(hold))).fetchone()
                        assert row is not None  # noqa: S101  (an upsert returns its row)
                        found[hold.key] = Given(*row)
        except psycopg.Error as error:
            raise Unavailable(type(error).__name__) from error
        return [found[ask.key] for ask in asks]


def _columns(takes: Sequence[Take]) -> list[list[Any]]:
    rows = [(*take.key, *take.window, take.want, take.most) for take in takes]
    return [list(column) for column in zip(*rows, strict=True)]


def _members(hold: Hold) -> dict[str, Any]:
    names = dict(zip(("o", "p", "r", "s"), hold.key, strict=True))
    return names | {
        "owner": hold.owner, "want": hold.want, "most": hold.most, "now": hold.now_ms, "until": hold.until_ms
    }  # fmt: skip


# --- Redis ------------------------------------------------------------------------------------------------------------

_TAKE_LUA: Final = """
local used = tonumber(redis.call('GET', KEYS[1]) or '0')
local given = math.max(0, math.min(tonumber(ARGV[1]), tonumber(ARGV[2]) - used))
local left = redis.call('PTTL', KEYS[1])
if given > 0 then
  redis.call('INCRBY', KEYS[1], string.format('%.0f', given))
  if left < 0 then
    left = tonumber(ARGV[3])
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
  end
end
return {given, used + given, left}
"""
_HOLD_LUA: Final = """
local others = 0
local held = redis.call('HGETALL', KEYS[1])
for i = 1, #held, 2 do
  local places, until_ms = string.match(held[i + 1], '(%d+):(%d+)')
  if tonumber(until_ms) <= tonumber(ARGV[4]) then
    redis.call('HDEL', KEYS[1], held[i])
  elseif held[i] ~= ARGV[1] then
    others = others + tonumber(places)
  end
end
local given = math.max(0, math.min(tonumber(ARGV[2]), tonumber(ARGV[3]) - others))
if given > 0 then
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f:%s', given, ARGV[5]))
  redis.call('PEXPIREAT', KEYS[1], ARGV[5])
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return {given, others + given, 0}
"""


class Redis:
    """Counters in Redis: a process is given what its calls need and not one more."""

    share = 0
    fresh_s = 0.05

    async def ask(self, asks: Sequence[Take | Hold]) -> list[Given]:
        async def send(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for ask in asks:
                if isinstance(ask, Take):
                    life = _life_ms(ask)
                    pipeline.eval(_TAKE_LUA, 1, name(ask.key, ask.window, ask.first_event), ask.want, ask.most, life)
                else:
                    pipeline.eval(_HOLD_LUA, 1, name(ask.key), ask.owner, ask.want, ask.most, ask.now_ms, ask.until_ms)
            answers: list[Any] = await pipeline.execute()
            return answers

        try:
            answers = await redis.run(send)
        except redis.Unavailable as error:
            raise Unavailable(str(error)) from error
        return [_given(ask, *answer) for ask, answer in zip(asks, answers, strict=True)]


def name(key: Key, window: Window | None = None, first_event: bool = False) -> str:
    """Return what a counter is called in Redis; all of an organization's are on one node of a cluster."""
    subject = hashlib.sha256(key.subject.encode()).hexdigest()[:32]
    text = f"respan:limit:{{{key.organization_id}}}:{key.policy_id}:{key.revision}:{subject}"
    return text if window is None or first_event else f"{text}:{window.starts_ms}"


def _life_ms(take: Take) -> int:
    """Return how long a counter is kept from now on: as long as its window, which begins at the latest now."""
    return min(take.window.ends_ms - take.window.starts_ms, _KEPT_MS)


def _given(ask: Take | Hold, granted: int, used: int, left_ms: int) -> Given:
    if isinstance(ask, Take) and ask.first_event and left_ms > 0:
        return Given(granted, used, ask.window.starts_ms + left_ms)
    return Given(granted, used, ask.window.ends_ms if isinstance(ask, Take) else ask.until_ms)


def store() -> Store:
    """Return where this installation counts."""
    return Redis() if redis.configured() else Postgres()


# --- For pages --------------------------------------------------------------------------------------------------------


def used_now(looks: Sequence[Take], *, now_ms: int) -> dict[Key, Given] | None:
    """Return what was used of each counter, without changing any; None where Redis does not answer. May wait.

    Places for calls at once are looked up as what begins with the first event.
    """
    if redis.configured():
        return _used_in_redis(looks)
    from gateway.models import LimitCounter

    found: dict[Key, Given] = {}
    wanted = {look.key: look for look in looks}
    organizations = {key.organization_id for key in wanted}
    policies = {key.policy_id for key in wanted}
    for row in LimitCounter.objects.filter(organization_id__in=organizations, policy_id__in=policies):
        key = Key(row.organization_id, row.policy_id, row.revision, row.subject)
        if key in wanted and row.ends_ms > max(wanted[key].window.starts_ms, now_ms):
            held = sum(places for places, until in row.holders.values() if until > now_ms)
            found[key] = Given(0, held if row.holders else row.used, row.ends_ms)
    return found


def _used_in_redis(looks: Sequence[Take]) -> dict[Key, Given] | None:
    async def read(client: Any) -> list[Any]:
        pipeline = client.pipeline(transaction=False)
        for look in looks:
            pipeline.eval(_LOOK_LUA, 1, name(look.key, look.window, look.first_event), look.window.starts_ms)
        answers: list[Any] = await pipeline.execute()
        return answers

    try:
        answers = redis.run_now(read)
    except redis.Unavailable:
        return None
    return {look.key: _given(look, *answer) for look, answer in zip(looks, answers, strict=True)}


_LOOK_LUA: Final = """
if redis.call('TYPE', KEYS[1]).ok == 'hash' then
  local held = 0
  for _, text in ipairs(redis.call('HVALS', KEYS[1])) do held = held + tonumber(string.match(text, '(%d+):')) end
  return {0, held, 0}
end
return {0, tonumber(redis.call('GET', KEYS[1]) or '0'), redis.call('PTTL', KEYS[1])}
"""


def forget_ended() -> None:
    """Delete the counters whose time was over a day ago."""
    from gateway.models import LimitCounter

    LimitCounter.objects.filter(ends_ms__lt=int(time.time() * 1000) - _ENDED_MS).delete()
