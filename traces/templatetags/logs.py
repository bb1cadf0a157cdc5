"""How figures of a log are written on pages: times, durations, counts, states. Formats only; decides nothing."""

import uuid
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from django import template
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from respan import ids

register = template.Library()

# State -> (tone of its badge, icon, word): never colour alone.
_STATES: Final = {
    "ok": ("ok", "check", "OK"),
    "error": ("error", "circle-x", "Error"),
    "aborted": ("warn", "octagon-x", "Aborted"),
    "interrupted": ("warn", "triangle-alert", "Interrupted"),
}
# Who paid -> (tone, icon, word, sentence).
_PAYERS: Final = {
    "credits": ("credits", "coins", "Credits", "Paid from your credits"),
    "own_key": ("own", "key-round", "Own key", "Billed by your provider, at no charge here"),
    "free": ("ok", "gift", "Free", "This model costs nothing"),
    "nobody": ("", "minus", "Nobody", "No provider was reached"),
}
# Decision -> (tone, icon, word, sentence).
_DECISIONS: Final = {
    "cache": ("cached", "zap", "cache", "Answered from the response cache"),
    "fallback": ("warn", "shuffle", "fallback", "Answered by another model than the one asked for"),
    "retried": ("", "rotate-cw", "retried", "Asked again after a failure"),
    "limited": ("warn", "gauge", "limited", "A limit refused this call or warned of it"),
}


@register.filter
def log_id(value: uuid.UUID) -> str:
    """Return the public id of a log."""
    return ids.encode("log", value)


@lru_cache(maxsize=64)  # a list draws a hundred of a handful
def _badge(tone: str, icon: str, word: str, meaning: str = "", small: bool = False) -> SafeString:
    context = {"tone": tone, "icon": icon, "word": word, "meaning": meaning, "small": small}
    return render_to_string("traces/_badge.html", context)


@register.simple_tag
def state(status: str) -> SafeString:
    """Draw the badge of a status."""
    return _badge(*_STATES.get(status, ("", "circle", status)))


@register.simple_tag
def payer(paid_by: str, *, small: bool = False) -> SafeString:
    """Draw the badge of who paid; a small one is only its icon, with the word for those who hover or listen."""
    return _badge(*_PAYERS.get(paid_by, ("", "circle", paid_by, "")), small=small)


@register.simple_tag
def decision(name: str) -> SafeString:
    """Draw the mark of a decision (`decisions.marks`)."""
    return _badge(*_DECISIONS[name])


@register.filter
def paid(paid_by: str) -> str:
    """Return who paid, in a sentence."""
    return _PAYERS[paid_by][3] if paid_by in _PAYERS else paid_by


@register.filter
def mark(provider: str | None) -> str:
    """Return the letters a provider is recognised by in a narrow column."""
    return (provider or "?")[:2]


@register.filter
def host(link: str) -> str:
    """Return where a link leads."""
    try:
        return urlsplit(link).hostname or link[:60]
    except ValueError:
        return link[:60]


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
