"""How figures of a log are written on pages: times, durations, counts, states. Formats only; decides nothing."""

import uuid
from datetime import datetime, timedelta
from typing import Final

from django import template

from respan import ids

register = template.Library()

# State -> (class of its badge, icon, word): never colour alone.
_STATES: Final = {
    "ok": ("badge-ok", "✓", "OK"),
    "error": ("badge-error", "✕", "Error"),
    "aborted": ("badge-warning", "⊘", "Aborted"),
    "interrupted": ("badge-warning", "!", "Interrupted"),
}
_PAYERS: Final = {
    "credits": "Credits",
    "own_key": "Own provider key",
    "free": "Free",
    "nobody": "Nobody",
}


@register.filter
def log_id(value: uuid.UUID) -> str:
    """Return the public id of a log."""
    return ids.encode("log", value)


@register.filter
def shortened(text: str) -> str:
    """Shorten an id in its middle."""
    return text if len(text) <= 18 else f"{text[:10]}…{text[-4:]}"


@register.filter
def state_class(status: str) -> str:
    """Return the class of a state's badge."""
    return _STATES.get(status, ("",))[0]


@register.filter
def state_icon(status: str) -> str:
    """Return a state's icon."""
    return _STATES[status][1] if status in _STATES else "•"


@register.filter
def state_word(status: str) -> str:
    """Return a state as a word."""
    return _STATES[status][2] if status in _STATES else status


@register.filter
def payer(paid_by: str) -> str:
    """Return who paid, in words."""
    return _PAYERS.get(paid_by, paid_by)


@register.filter
def duration(microseconds: int | None) -> str:
    """Write a duration: `0.8 ms`, `820 ms`, `1.24 s`, `2 min 3 s`."""
    if microseconds is None:
        return "–"
    if 0 < microseconds < 10_000:
        return f"{microseconds / 1_000:.1f} ms"
    if microseconds < 999_500:
        return f"{microseconds / 1_000:.0f} ms"
    if microseconds < 59_995_000:
        return f"{microseconds / 1_000_000:.2f} s"
    minutes, seconds = divmod(round(microseconds / 1_000_000), 60)
    return f"{minutes} min {seconds} s"


@register.filter
def figure(value: int | None) -> str:
    """Write a whole number with separators; a dash where it is unknown."""
    return "–" if value is None else f"{value:,}"


@register.filter
def exact(moment: datetime) -> str:
    """Write a moment to the millisecond, in UTC."""
    return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d} UTC"


@register.filter
def ago(moment: datetime, now: datetime) -> str:
    """Write how long ago a moment was: `12 s ago`, `5 min ago`, `3 h ago`, `2 d ago`."""
    passed = now - moment
    if passed < timedelta(seconds=1):
        return "just now"
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if passed >= timedelta(seconds=length):
            return f"{passed // timedelta(seconds=length)} {unit} ago"
    return f"{passed // timedelta(seconds=1)} s ago"
