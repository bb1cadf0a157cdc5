"""Pure: what to do after an attempt has failed: try the same target again, the next one, or give up.

Never waits, reads a clock or draws a number itself: those are arguments. Knows no provider and no dialect.
Neighbours: `attempts.py` (makes the attempts), `health.py` (whether a target may be asked at all).

Figures: at most three attempts in all (the SDKs make up to three calls themselves), full jitter, a provider's
`Retry-After` honoured up to ten seconds.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MOST_ATTEMPTS = 3
LONGEST_RETRY_AFTER_S = 10.0
LONGEST_PAUSE_S = 8.0

# What may pass by itself: conflicts, limits, overload, and servers in trouble.
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
# What the request itself is to blame for: another target would say the same.
_THE_REQUESTS = frozenset({400, 405, 406, 411, 413, 414, 415, 416, 422, 431})
# A refusal that is about this model, not about the request: a larger or abler one may answer.
_THE_MODELS = re.compile(
    r"context.?(length|window)|maximum context|too many (input )?tokens|prompt is too long|input is too long"
    r"|not support|unsupported|does not exist|deprecated|decommissioned",
    re.IGNORECASE,
)
# A limit that no short wait lifts.
_USED_UP = re.compile(r"insufficient_quota|exceeded your current quota|billing|credit balance", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Policy:
    """How often, and how patiently, the same target is tried again."""

    enabled: bool = True
    num_retries: int = 2
    first_pause_s: float = 0.25


@dataclass(frozen=True, slots=True)
class Failure:
    """How an attempt failed: the provider's status (None: no answer came), its words, and when it may be asked again.

    `was_sent` says that the provider has read the request: trying again may be paid twice.
    """

    status: int | None
    message: str = ""
    retry_after_s: float | None = None
    was_sent: bool = True
    # Our own refusal to ask: a forbidden address, a key that does not open.
    is_ours: bool = False


@dataclass(frozen=True, slots=True)
class Again:
    """Try the same target after a pause."""

    pause_s: float


@dataclass(frozen=True, slots=True)
class Onward:
    """Try the next target, if there is one."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Give up: what was asked cannot be answered now."""


Step = Again | Onward | Stop


def may_pass(failure: Failure) -> bool:
    """Tell whether the same request at the same target may succeed a little later."""
    if failure.is_ours or (failure.status == 429 and _USED_UP.search(failure.message)):
        return False
    return failure.status is None or failure.status in _PASSING


def may_move(failure: Failure) -> bool:
    """Tell whether another target may answer what this one refused."""
    if failure.status in _THE_REQUESTS:
        return bool(_THE_MODELS.search(failure.message))
    return True


def counts_against(failure: Failure) -> bool:
    """Tell whether a failure says something of the target's health."""
    return not failure.is_ours and failure.status not in _THE_REQUESTS and failure.status not in (404, 409)


def step(
    failure: Failure,
    *,
    made: int,
    retries: int,
    policy: Policy,
    has_next: bool,
    may_spend: Callable[[], bool],
    random: Callable[[], float],
) -> Step:
    """Return what comes after a failure. `made` counts all attempts so far, `retries` those at this target.

    `may_spend` takes one retry out of the provider's budget: it is asked last.
    """
    if made >= MOST_ATTEMPTS:
        return Stop()
    onward: Step = Onward() if has_next and may_move(failure) else Stop()
    asked_to_wait = failure.retry_after_s is not None
    wait = failure.retry_after_s or 0.0
    # Waiting was asked for, and is short: the provider will take the same request. Else somebody else may at once.
    if isinstance(onward, Onward) and not asked_to_wait:
        return onward
    allowed = policy.num_retries
    if failure.status is None and failure.was_sent:
        allowed = min(allowed, 1)
    if not policy.enabled or retries >= allowed or not may_pass(failure) or wait > LONGEST_RETRY_AFTER_S:
        return onward
    if not may_spend():
        return onward
    return Again(wait if asked_to_wait else backoff_s(retries, policy.first_pause_s, random))


def backoff_s(retries: int, first_pause_s: float, random: Callable[[], float]) -> float:
    """Return a pause with full jitter: anything up to twice the longest of the one before."""
    return random() * min(LONGEST_PAUSE_S, first_pause_s * 2.0**retries)


def retry_after_s(headers: Iterable[tuple[bytes, bytes]], *, now: datetime) -> float | None:
    """Return how many seconds a provider asks to wait; None when it does not say.

    `retry-after-ms` (OpenAI) comes before `Retry-After`, which holds seconds or a date (RFC 9110, 10.2.3).
    """
    seconds: float | None = None
    for raw_name, value in headers:
        name = raw_name.lower()
        if name == b"retry-after-ms" and (millis := _number(value)) is not None:
            return millis / 1000
        if name == b"retry-after":
            seconds = _number(value)
            if seconds is None:
                seconds = _until(value, now)
    return seconds


def _number(value: bytes) -> float | None:
    text = value.strip()
    return float(text) if re.fullmatch(rb"[0-9]{1,9}(\.[0-9]{1,6})?", text) else None


def _until(value: bytes, now: datetime) -> float | None:
    try:
        moment = parsedate_to_datetime(value.decode("ascii").strip())
    except (ValueError, TypeError, UnicodeDecodeError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())
