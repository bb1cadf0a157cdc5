"""What the gateway decided on a call: its attempts as the child spans they are, and all of it in one sentence.

Pure: reads a stored log, which may be of a version that wrote less, and never raises over its shape. Decides nothing:
that was done in `gateway.attempts`. Neighbours: `spans.py` (what is recorded), `detail.py` and `export.py` (the drawer
and the API), `templatetags/log_rows.py` (the marks of a row).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, Protocol
from uuid import UUID

from billing import usage
from traces import spans

# What a list is filtered by, and what its rows are marked with.
CACHE, FALLBACK, RETRIED, LIMITED = "cache", "fallback", "retried", "limited"

_WORDS: Final[Mapping[str, str]] = {
    "upstream_error": "an error",
    "upstream_timeout": "a timeout",
    "upstream_unreachable": "no connection",
    "upstream_disconnected": "a dropped connection",
    "upstream_invalid": "an unreadable answer",
    "upstream_busy": "no free connection",
    "client_closed": "the client leaving",
}
_TOO_MANY: Final = 429


class Decided(Protocol):
    """What is read of a log (`reading.Log` is one)."""

    @property
    def id(self) -> UUID: ...
    @property
    def status(self) -> str: ...
    @property
    def http_status(self) -> int: ...
    @property
    def cached(self) -> bool: ...
    @property
    def saved_nano(self) -> int | None: ...
    @property
    def fallback(self) -> int: ...
    @property
    def retries(self) -> int: ...
    @property
    def limit_name(self) -> str | None: ...
    @property
    def attempts(self) -> Sequence[Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at one target, or with `is_skipped` a target that was passed over (`error` says why).

    `is_delivering`: the call's usage and cost are this attempt's; it answered in full when the call is OK.
    """

    span_id: str
    reason: str
    provider: str | None
    model: str | None
    credential: str | None
    credential_name: str | None
    status: int | None
    error: str | None
    message: str | None
    next: str | None
    started_us: int | None
    duration_us: int
    is_skipped: bool
    is_delivering: bool


def span_id(id: UUID) -> str:
    """Return the span id of a call, in hexadecimal: the random half of its log id."""
    return id.bytes[8:].hex()


def attempts(log: Decided) -> list[Attempt]:
    """Return the attempts of a call in their order; members that hold their default are not stored."""
    stored = [each for each in log.attempts if isinstance(each, dict)]
    tried = [place for place, each in enumerate(stored) if not each.get("skipped")]
    last = tried[-1] if tried else None
    return [_attempt(each, log, place, is_last=place == last) for place, each in enumerate(stored)]


def _attempt(stored: Mapping[str, Any], log: Decided, place: int, *, is_last: bool) -> Attempt:
    status, error = _whole(stored.get("status")), _text(stored.get("error"))
    is_through = log.status == spans.OK or (error in {None, "client_closed"} and status is not None and status < 400)
    return Attempt(
        # Attempts of older versions had no id of their own: one that stays the same.
        span_id=_text(stored.get("span_id"))
        or hashlib.blake2b(log.id.bytes + place.to_bytes(2, "big"), digest_size=8).hexdigest(),
        reason=_text(stored.get("reason")) or "first",
        provider=_text(stored.get("provider")),
        model=_text(stored.get("model")),
        credential=_text(stored.get("credential")),
        credential_name=_text(stored.get("credential_name")),
        status=status,
        error=error,
        message=_text(stored.get("message")),
        next=_text(stored.get("next")),
        started_us=_whole(stored.get("started_us")),
        duration_us=max(0, _whole(stored.get("duration_us")) or 0),
        is_skipped=bool(stored.get("skipped")),
        is_delivering=is_last and is_through,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def marks(log: Decided) -> list[str]:
    """Return what a row of the list is marked with, most telling first."""
    found = {
        CACHE: log.cached,
        FALLBACK: log.fallback > 0,
        RETRIED: log.retries > 0 and any(_is_retry(each) for each in log.attempts),
        LIMITED: log.limit_name is not None,
    }
    return [name for name, holds in found.items() if holds]


def _is_retry(stored: Any) -> bool:
    # The same condition stands in `query.DECISIONS`: a row is marked exactly when the filter finds it.
    return isinstance(stored, dict) and stored.get("reason") == "retry"


# --- The sentence -----------------------------------------------------------------------------------------------------


def sentence(log: Decided, *, started_us: int) -> str:
    """Say how a call was answered, or was not: `answered by fallback 2 after 429, 1.2 s`.

    The time is what had passed when the attempt that answered began; `started_us` is the call's start. Nothing is said
    of a call that was answered at the first try without further ado.
    """
    said = _said(log, started_us)
    if log.limit_name is None or is_refused(log):
        return said
    warned = f"over the limit {log.limit_name}, which only warns"
    return f"{said}; {warned}" if said else warned


def is_refused(log: Decided) -> bool:
    """Tell whether a limit of ours ended the call: nobody was asked."""
    return (
        log.limit_name is not None and log.http_status == _TOO_MANY and all(each.is_skipped for each in attempts(log))
    )


def _said(log: Decided, started_us: int) -> str:
    if log.cached:
        return "answered from the cache" + (f", {usage.usd(log.saved_nano)} saved" if log.saved_nano else "")
    if is_refused(log):
        return f"refused by the limit {log.limit_name}"
    found = attempts(log)
    tried = [each for each in found if not each.is_skipped]
    skipped = [each for each in found if each.is_skipped]
    if log.status == spans.OK and tried:
        return _answered(log, tried, skipped, started_us)
    if log.status == spans.ABORTED and len(tried) > 1:
        return f"the client left during attempt {len(tried)}, after {_failures(tried[:-1])}"
    if log.status == spans.ERROR and len(found) > 1:
        return _failed(tried, skipped)
    return ""


def _answered(log: Decided, tried: Sequence[Attempt], skipped: Sequence[Attempt], started_us: int) -> str:
    if log.fallback <= 0 and len(tried) < 2:
        return ""
    who = f"fallback {log.fallback}" if log.fallback > 0 else f"retry {len(tried) - 1}"
    after = f" after {_failures(tried[:-1])}" if len(tried) > 1 else _passed_over(skipped)
    begun = tried[-1].started_us
    lost = f", {_duration(begun - started_us)}" if len(tried) > 1 and begun is not None and begun > started_us else ""
    return f"answered by {who}{after}{lost}"


def _passed_over(skipped: Sequence[Attempt]) -> str:
    if not skipped:
        return ""
    first = skipped[0]
    return (
        f": {first.model or 'the model asked for'} was passed over, {_lowered(first.error or 'it could not be asked')}"
    )


def _failed(tried: Sequence[Attempt], skipped: Sequence[Attempt]) -> str:
    said = []
    if tried:
        count = "1 attempt" if len(tried) == 1 else f"{len(tried)} attempts"
        said.append(f"failed after {count}: {_failures(tried)}")
    if skipped:
        count = "1 target was" if len(skipped) == 1 else f"{len(skipped)} targets were"
        said.append(f"{count} passed over")
    return ", ".join(said)


def _failures(tried: Iterable[Attempt]) -> str:
    """Say what attempts came to: `429, 2 × 500, a timeout`."""
    grouped = [(outcome, len(list(group))) for outcome, group in groupby(map(outcome_of, tried))]
    return ", ".join(outcome if count == 1 else f"{count} × {outcome}" for outcome, count in grouped)


def outcome_of(attempt: Attempt) -> str:
    """Say in a word or two what an attempt that did not answer came to."""
    if attempt.status is not None and attempt.status >= 400:
        return str(attempt.status)
    if attempt.error is None:
        return "an answer that broke off" if attempt.status is not None else "no answer"
    return _WORDS.get(attempt.error, attempt.error.replace("_", " "))


def _lowered(text: str) -> str:
    return (text[:1].lower() + text[1:]).rstrip(".") if text[1:2].islower() else text.rstrip(".")


def _duration(microseconds: int) -> str:
    if microseconds < 1_000_000:
        return f"{microseconds / 1_000:.0f} ms"
    if microseconds < 60_000_000:
        return f"{microseconds / 1_000_000:.1f} s"
    minutes, seconds = divmod(round(microseconds / 1_000_000), 60)
    return f"{minutes} min {seconds} s"
