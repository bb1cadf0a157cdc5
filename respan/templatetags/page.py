"""What templates of every app use: icons, built files, forms' fields, charts, moments and ids. Knows no app.

Neighbours: `respan/assets` (what is built), `templates/_field.html`, `templates/_chart.html`.
"""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from django import template
from django.forms import BoundField
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe

from respan.charts import Chart

register = template.Library()

_DIST: Final = Path(__file__).resolve().parent.parent / "static" / "dist"


@lru_cache(maxsize=1)
def _icons() -> dict[str, str]:
    icons: dict[str, str] = json.loads((_DIST / "icons.json").read_text())
    return icons


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:10] for path in _DIST.iterdir()}


@register.simple_tag
def asset(name: str) -> str:
    """Return the address of a built file; it changes with the content, so browsers may keep it for ever.

    Raises: KeyError for a file that was not built.
    """
    return f"{static(f'dist/{name}')}?v={_versions()[name]}"


@register.simple_tag
@lru_cache(maxsize=500)  # a page draws dozens, nearly all without a label
def icon(name: str, label: str = "") -> SafeString:
    """Draw an icon of `assets/icons.txt`: decoration, unless it has a label of its own.

    Raises: KeyError for an icon that was not built (name it in icons.txt, then `make assets`).
    """
    # Built by us from a pinned package: markup, not user content.
    inner = mark_safe(_icons()[name])  # noqa: S308
    meaning = format_html('role="img" aria-label="{}"', label) if label else mark_safe('aria-hidden="true"')
    return format_html(
        '<svg class="icon" viewBox="0 0 24 24" width="16" height="16" fill="none" stroke="currentColor" '
        'stroke-width="2" stroke-linecap="round" stroke-linejoin="round" {}>{}</svg>',
        meaning,
        inner,
    )


@register.inclusion_tag("_field.html")
def field(bound: BoundField, **options: Any) -> dict[str, Any]:
    """Draw one field of a form with label, help and errors, tied together for screen readers."""
    widget = bound.field.widget
    kind = getattr(widget, "input_type", "")
    classes = {"select": "native-select", "checkbox": "input", "radio": "input"}.get(kind)
    if classes is None:
        classes = "textarea" if type(widget).__name__ == "Textarea" else "input"
    attributes: dict[str, str | bool] = {"class": classes}
    if bound.errors:
        attributes["aria-invalid"] = "true"
    return {"field": bound, "control": bound.as_widget(attrs=attributes), "kind": kind, **options}


@register.inclusion_tag("_chart.html")
def chart(drawing: Chart, *, strip: bool = False) -> dict[str, Any]:
    """Draw a chart and, unless it is a strip, its table."""
    return {"chart": drawing, "strip": strip, "marks": mark_safe("".join(_marks(drawing)))}  # noqa: S308


def _marks(drawing: Chart) -> Iterator[str]:
    """Yield the shapes of a chart as SVG: a template would take a third of a page's time for them.

    Tones and numbers are ours; what a column tells and where it leads is escaped.
    """
    for column in drawing.columns:
        for bar in column.bars:
            place = f'x="{bar.x}" y="{bar.y}" width="{bar.width}" height="{bar.height}"'
            yield f'<rect class="tone-{bar.tone}" {place}/>'
    for line in drawing.lines:
        yield f'<path class="tone-{line.tone}" d="{line.path}"/>'
        for x, y in line.dots:
            yield f'<path class="tone-{line.tone} dot-mark" d="M{x} {y}h0.01"/>'
    for column in drawing.columns:
        tip = escape(column.tip)
        place = f'x="{column.x}" y="0" width="{column.width}" height="{drawing.height}"'
        if column.link:
            yield f'<a href="{escape(column.link)}" aria-label="{tip}" data-tip="{tip}"><rect class="hit" {place}/></a>'
        else:
            yield f'<rect class="hit" data-tip="{tip}" {place}/>'


@register.simple_tag
def moment(at: datetime | None, now: datetime | None = None, missing: str = "never") -> SafeString | str:
    """Write how long ago a moment was or how far off it is, with the exact UTC on hover (and local time by script)."""
    if at is None:
        return missing
    exact = at.astimezone(UTC)
    return format_html(
        '<time datetime="{}" title="{} UTC">{}</time>',
        exact.isoformat(),
        f"{exact:%Y-%m-%d %H:%M:%S}",
        _distance((now or timezone.now()) - at, exact),
    )


def _distance(passed: Any, exact: datetime) -> str:
    seconds = passed.total_seconds()
    far, ahead = abs(seconds), seconds < 0
    if far < 45:
        return "in a moment" if ahead else "just now"
    if far >= 30 * 86_400:
        return f"{exact:%-d %b %Y}"
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        count = round(far / length)
        if far >= length * 0.95 and count:
            words = f"{count} {unit}{'' if count == 1 else 's'}"
            return f"in {words}" if ahead else f"{words} ago"
    return "in a minute" if ahead else "a minute ago"


@register.filter
def middle(text: str, length: int = 18) -> str:
    """Shorten an id in its middle."""
    return text if len(text) <= length else f"{text[: length - 8]}…{text[-4:]}"
