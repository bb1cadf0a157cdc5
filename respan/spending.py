"""Credits with what only other apps know: the models that were paid for, the tokens of a charge, the provider keys.

Part of the roof: asks each app and composes; moves no money and computes no cost itself.
Neighbours: `billing.views` (the pages), `traces.figures` (charges by model), `traces.reading` (the log of a call).
"""

from datetime import UTC, date
from typing import Final

from django.http import Http404, HttpResponse
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts.models import Role
from accounts.tenancy import MemberRequest, require_role
from billing import spending, statement, usage, views
from gateway import credentials
from respan import pages
from respan.charts import Chart, Series, bars
from traces import figures, reading

DAYS: Final = 30
# As many as the drawing has tones for; the others are one series.
MODELS: Final = 5
# Charges whose calls are in no log get a series of their own when they are more than this share. Less is only a call
# that began before midnight and was booked after it.
UNKNOWN_PARTS: Final = 100


@require_safe
@require_role(Role.MEMBER)
def credits_page(request: MemberRequest) -> HttpResponse:
    """Show Credits: balance, spend, entries."""
    organization, now = request.membership.organization, timezone.now()
    if pages.wants_fragment(request):  # the entries only
        return views.page(request, chart=bars("", [], []), has_own_key=False, now=now)
    return views.page(
        request,
        chart=_chart(organization.pk, today=now.astimezone(UTC).date()),
        has_own_key=credentials.count(organization) > 0,
        now=now,
    )


@require_safe
@require_role(Role.MEMBER)
def entry(request: MemberRequest, entry_id: str) -> HttpResponse:
    """Show one entry; a charge with its arithmetic, as long as the log of its call is kept."""
    organization_id = request.membership.organization.pk
    detail = statement.detail(organization_id=organization_id, entry_id=entry_id)
    if detail is None:
        raise Http404("There is no such entry.")
    found = reading.log(organization_id=organization_id, id=detail.call_id) if detail.call_id else None
    lines = _lines(detail, found.log) if found else []
    return views.entry(request, detail, lines=lines, has_log=found is not None)


def _chart(organization_id: int, *, today: date) -> Chart:
    """Draw the charges of the last days by model, as far as the logs know it; what they add up to is the ledger's."""
    booked = spending.by_day(organization_id, days=DAYS, today=today)
    labels, links = views.chart_axis([day for day, _ in booked])
    series = _by_model(organization_id, booked)
    known = [sum(each.values[i] or 0 for each in series) for i in range(DAYS)]
    total = sum(amount for _, amount in booked)
    if (total - sum(known)) * UNKNOWN_PARTS > total:
        values = [max(amount - of_models, 0) for (_, amount), of_models in zip(booked, known, strict=True)]
        series.append(Series("Calls without a log" if series else "Charged", values, "rest" if series else "1"))
    return bars(f"Spend of the last {DAYS} days by model", labels, series, unit="usd", links=links)


def _by_model(organization_id: int, booked: list[tuple[date, int]]) -> list[Series]:
    first, last = (spending.midnight(booked[i][0]) for i in (0, -1))
    try:
        found = figures.series(
            organization_id=organization_id, start=first, end=last + spending.LEAST, metric="charged", bucket="day",
            group_by="model", limit=MODELS,
        )  # fmt: skip
    except reading.SearchTooSlow:
        return []
    return [
        Series("Other models" if each.is_rest else each.value, each.points, "rest" if each.is_rest else str(tone))
        for tone, each in enumerate(found.series, 1)
        if any(each.points)
    ]


def _lines(detail: statement.Detail, log: reading.Log) -> list[usage.Line]:
    """Return the lines that add up to a call's cost, or nothing where they would not."""
    if detail.rates is None or log.input_tokens is None:
        return []
    used = usage.Usage(
        input_tokens=log.input_tokens,
        output_tokens=log.output_tokens or 0,
        cache_read_input_tokens=log.cache_read_input_tokens or 0,
        cache_creation_input_tokens=log.cache_creation_input_tokens or 0,
        reasoning_output_tokens=log.reasoning_output_tokens or 0,
    )
    if usage.cost(used, detail.rates) != detail.cost:
        return []
    return usage.explain(used, detail.rates)
