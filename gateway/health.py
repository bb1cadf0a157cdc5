"""How the targets of calls are doing, as this process sees it: circuit breakers, retry budgets, latencies.

A target is a model of a provider at a place with a key: one tenant's bad key says nothing of another's. A breaker opens
when at least half of at least 20 attempts within 30 s have failed; for 15 s nobody asks then, after that three probes
decide. Never asks a provider itself, never decides what comes after a failure (`retrying.py`). Neighbours:
`attempts.py`, `balancing.py` (latencies), the Integrations page (`breakers`).
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

WINDOW_S = 30.0
LEAST_ATTEMPTS = 20
OPEN_S = 15.0
PROBES = 3
# Same-target retries: a tenth of a provider's calls, and always a few a second.
BUDGET_LEAST_PER_S = 3
_MOST_BUDGET = 20
_BUCKETS = 6
_BUCKET_S = WINDOW_S / _BUCKETS
_MOST_TARGETS = 20_000
# A new latency counts for a fifth.
_EWMA = 0.2


class Place(NamedTuple):
    """What a breaker stands before: `region` is the origin the provider is reached at, `credential` None for none."""

    provider: str
    region: str
    model: str
    credential: str | None


@dataclass(slots=True)
class Health:
    """One target's record. Moments are seconds of `time.monotonic()`."""

    calls: list[int] = field(default_factory=lambda: [0] * _BUCKETS)
    failures: list[int] = field(default_factory=lambda: [0] * _BUCKETS)
    bucket: int = 0
    open_until: float | None = None
    probing: int = 0
    proved: int = 0
    latency_s: float | None = None
    seen_at: float = 0.0

    def enter(self, now: float) -> bool:
        """Tell whether the target may be asked; who is let in reports with `passed`, `failed` or `left`."""
        if self.open_until is None:
            return True
        if now < self.open_until or self.probing >= PROBES:
            return False
        self.probing += 1
        return True

    def passed(self, now: float, latency_s: float) -> None:
        """Note an attempt that was answered."""
        self._count(now, 0)
        self.latency_s = latency_s if self.latency_s is None else self.latency_s + _EWMA * (latency_s - self.latency_s)
        if self.open_until is not None:
            self.probing = max(0, self.probing - 1)
            self.proved += 1
            if self.proved >= PROBES:
                self._close()

    def failed(self, now: float) -> bool:
        """Note an attempt that failed; tell whether the breaker has opened with it."""
        self._count(now, 1)
        if self.open_until is not None:
            if now < self.open_until:
                return False  # one that was under way when it opened
            self._open(now)
            return True
        calls = sum(self.calls)
        if calls >= LEAST_ATTEMPTS and 2 * sum(self.failures) >= calls:
            self._open(now)
            return True
        return False

    def left(self) -> None:
        """Note an attempt that said nothing of the target: its client went, or the request was at fault."""
        if self.open_until is not None:
            self.probing = max(0, self.probing - 1)

    def state(self, now: float) -> str:
        """Return `closed`, `open` or `half_open`."""
        if self.open_until is None:
            return "closed"
        return "open" if now < self.open_until else "half_open"

    def hold_open(self, until: float) -> None:
        """Open because another process has found the target failing."""
        if self.open_until is None or self.open_until < until:
            self.open_until, self.probing, self.proved = until, 0, 0

    def _open(self, now: float) -> None:
        self.open_until, self.probing, self.proved = now + OPEN_S, 0, 0

    def _close(self) -> None:
        self.open_until, self.probing, self.proved = None, 0, 0
        self.calls, self.failures = [0] * _BUCKETS, [0] * _BUCKETS

    def _count(self, now: float, failed: int) -> None:
        bucket = int(now / _BUCKET_S)
        if bucket != self.bucket:
            for stale in range(self.bucket + 1, min(bucket, self.bucket + _BUCKETS) + 1):
                self.calls[stale % _BUCKETS] = self.failures[stale % _BUCKETS] = 0
            self.bucket = bucket
        self.seen_at = now
        self.calls[bucket % _BUCKETS] += 1
        self.failures[bucket % _BUCKETS] += failed


@dataclass(slots=True)
class Budget:
    """What a provider's calls have earned in retries, in tenths of one."""

    tenths: int = 10 * BUDGET_LEAST_PER_S
    filled_at: float = field(default_factory=time.monotonic)

    def earn(self) -> None:
        """Note a call: a tenth of a retry."""
        if self.tenths < 10 * _MOST_BUDGET:
            self.tenths += 1

    def spend(self, now: float) -> bool:
        """Take one retry out, if there is one."""
        least = 10 * BUDGET_LEAST_PER_S
        self.tenths = max(self.tenths, min(least, self.tenths + int((now - self.filled_at) * least)))
        self.filled_at = now
        if self.tenths < 10:
            return False
        self.tenths -= 10
        return True


_targets: dict[Place, Health] = {}
_by_name: dict[tuple[str, str, str | None], list[Health]] = {}
_budgets: dict[str, Budget] = {}


def at(place: Place) -> Health:
    """Return the record of a target; a new one is healthy."""
    found = _targets.get(place)
    if found is None:
        if len(_targets) >= _MOST_TARGETS:
            _forget_idle()
        found = _targets[place] = Health()
        _by_name.setdefault((place.provider, place.model, place.credential), []).append(found)
    return found


def budget(provider: str) -> Budget:
    """Return the retry budget of a provider."""
    found = _budgets.get(provider)
    if found is None:
        found = _budgets[provider] = Budget()
    return found


def latency_s(provider: str, model: str, credential: str | None) -> float | None:
    """Return how long a target took lately until it began to answer; None: not known here. The best of its places."""
    places = _by_name.get((provider, model, credential), ())
    return min((health.latency_s for health in places if health.latency_s is not None), default=None)


class Breaker(NamedTuple):
    """A breaker that is not closed, for pages: `until` is a moment of `time.time()`."""

    model: str
    state: str
    until: float


def breakers(credential: str) -> list[Breaker]:
    """Return the breakers of a key that are open or being probed, by model."""
    return sorted(_open_ones(credential))


def _open_ones(credential: str) -> Iterator[Breaker]:
    now, clock = time.monotonic(), time.time()
    for place, health in list(_targets.items()):
        if place.credential == credential and health.open_until is not None:
            yield Breaker(place.model, health.state(now), clock + health.open_until - now)


def forget() -> None:
    """Begin anew (tests, and a process after a fork)."""
    _targets.clear()
    _by_name.clear()
    _budgets.clear()


def _forget_idle() -> None:
    """Drop the half of the targets that was asked longest ago."""
    for place in sorted(_targets, key=lambda place: _targets[place].seen_at)[: _MOST_TARGETS // 2]:
        del _targets[place]
    _by_name.clear()
    for place, health in _targets.items():
        _by_name.setdefault((place.provider, place.model, place.credential), []).append(health)
