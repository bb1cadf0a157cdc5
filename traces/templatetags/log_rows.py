"""One row of the list of logs, written in Python: a template takes five times as long, and a page has fifty rows.

Everything that came from a customer or a provider goes through `format_html`, which escapes it. Decides nothing: which
rows there are is `views.py`'s. Neighbours: `templates/traces/_logs.html` (the table), `logs.py` (how figures are
written).
"""

from datetime import datetime
from typing import Any, Final

from django import template
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from billing import usage
from respan import ids
from respan.templatetags.page import icon
from traces import decisions
from traces.reading import Log
from traces.templatetags.logs import ago, decision, duration, exact, figure, mark, payer, state

register = template.Library()

_NONE: Final = mark_safe('<span class="muted">–</span>')
_NOT_STORED: Final = mark_safe('<span class="muted">not stored</span>')
_NO_PRICE: Final = mark_safe('<span class="muted" title="No price is known for this model">unknown</span>')
_ROW: Final = """<tr data-row>
<th scope="row"><a class="plain" href="{address}" data-drawer>\
<time datetime="{at}" title="{exact}">{ago}</time></a></th>
<td>{state}{status}</td>
<td class="model"><span class="clip" title="{said}"><span class="initials" aria-hidden="true">{mark}</span>\
<span class="visually-hidden">{provider}</span> <span class="mono">{model}</span>{answered}</span></td>
<td class="input-words">{words}</td>
<td class="num">{input} / {output}</td>
<td class="took"><span class="num">{took}</span><svg viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">\
<rect class="whole" width="{share}" height="4"/>{first}</svg>{ttft}</td>
<td class="num cost">{cost} {payer}</td>
<td><span class="clip" dir="auto" title="{key}">{environment}{short_key}</span></td>
<td>{customer}</td>
</tr>"""


@register.simple_tag
def log_row(row: Any, now: datetime) -> SafeString:
    """Draw one row; `row` is `views._Row`."""
    log: Log = row.log
    other = log.response_model if log.response_model and log.response_model != log.request_model else ""
    return format_html(
        _ROW,
        address=reverse("log", args=[ids.encode("log", log.id)]),
        at=log.started_at.isoformat(),
        exact=exact(log.started_at),
        ago=ago(log.started_at, now),
        state=state(log.status),
        status=format_html(' <span class="muted">{}</span>', log.http_status) if log.status == "error" else "",
        said=f"{log.provider or 'No provider'}: {log.request_model}{f' → {other}' if other else ''}",
        mark=mark(log.provider),
        provider=log.provider or "no provider",
        model=log.request_model[:80],
        answered=format_html(' <span class="muted mono">→ {}</span>', other[:80]) if other else "",
        words=_marked(log),
        input=figure(log.input_tokens),
        output=figure(log.output_tokens),
        took=duration(log.duration_us),
        share=row.share,
        first=format_html('<rect class="first" x="{}" width="1.5" height="4"/>', row.first_share)
        if row.first_share is not None
        else "",
        ttft=format_html('<span class="visually-hidden">first token after {}</span>', duration(log.ttft_us))
        if log.ttft_us is not None
        else "",
        cost=_NO_PRICE if log.cost_nano is None else _usd(log.cost_nano),
        payer=payer(log.paid_by, small=True),
        key=row.key_name,
        environment=_test() if log.environment == "test" else "",
        short_key=row.key_name[:80] or "–",
        customer=_clipped(log.customer_identifier, 80, title=log.customer_identifier)
        if log.customer_identifier
        else _NONE,
    )


def _marked(log: Log) -> SafeString:
    """Put the marks of what was decided on a call in front of its words."""
    marks = decisions.marks(log)
    if not marks:
        return _words(log)
    badges = format_html_join("", "{}", ((decision(name),) for name in marks))
    return format_html('<div class="marked">{}{}</div>', badges, _words(log))


def _words(log: Log) -> SafeString:
    if log.input_preview:
        return _clipped(log.input_preview, 160)
    if log.error_message:
        return _clipped(log.error_message, 160, tone=" text-error")
    return _NONE if log.has_body else _NOT_STORED


def _clipped(text: str, length: int, *, tone: str = "", title: str | None = None) -> SafeString:
    whole = format_html(' title="{}"', title) if title else ""
    return format_html('<span class="clip{}" dir="auto"{}>{}</span>', tone, whole, text[:length])


def _usd(nano: int) -> SafeString:
    """Write an amount as the filter `usd` of `billing` does."""
    return format_html('<data class="num" value="{}" title="{} nano-USD">{}</data>', nano, f"{nano:,}", usage.usd(nano))


def _test() -> SafeString:
    badge = '<span class="badge small" data-state="warn" title="Test">{}</span> '
    return format_html(badge, icon("flask-conical", "Test"))
