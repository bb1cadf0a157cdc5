"""The Credits pages: balance, entries, one entry, redeeming a code, the export and the statement of a month.

Every query starts at the reader's organization. Every member may read all of it; owners and admins redeem codes. The
pages that need facts of other apps as well (`page`, `entry`) are given them by the roof, which has their addresses.
Neighbours: `statement.py`, `spending.py`, `export.py`, `codes.py`, `ledger.balance`, `respan.spending`.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, date, datetime
from http import HTTPStatus
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib import messages
from django.core.handlers.asgi import ASGIRequest
from django.http import Http404, HttpResponse, HttpResponseBase, QueryDict, StreamingHttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from accounts import audit
from accounts.models import Role
from accounts.tenancy import MemberRequest, has_role, require_role
from billing import codes, export, ledger, spending, statement
from billing.forms import EntriesForm, MonthForm, RedeemForm
from billing.usage import MILLION, Line, Rates, usd
from respan.charts import Chart
from respan.errors import Error
from respan.pages import render, wants_fragment

_FILTERS = ("kind", "since", "until")


def page(request: MemberRequest, *, chart: Chart, has_own_key: bool, now: datetime) -> HttpResponse:
    """Show the balance, how fast it goes and the entries; the roof brings the chart and who else could pay."""
    organization = request.membership.organization
    form = EntriesForm({name: request.GET.get(name, "").strip() for name in _FILTERS})
    asked = form.asked()
    cursor = request.GET.get("before", "")
    listed = (
        statement.Page([], None)
        if asked is None
        else statement.entries(organization_id=organization.pk, asked=asked, cursor=cursor)
    )
    filters = QueryDict(mutable=True)
    filters.update({name: form.data[name] for name in _FILTERS if form.data[name]})
    context: dict[str, Any] = {
        "page": listed,
        "filters": form,
        "filter_query": filters.urlencode(),
        "is_filtered": bool(filters),
        "is_later_page": bool(cursor),
        "now": now,
    }
    if not wants_fragment(request):
        context |= _head(request, now=now) | {"chart": chart, "has_own_key": has_own_key}
        is_new = not listed.rows and not statement.has_entries(organization.pk)
        context["is_new"] = is_new
        context["has_codes"] = not is_new or statement.has_codes(organization.pk, now=now)
    status = HTTPStatus.OK if asked is not None else HTTPStatus.BAD_REQUEST
    return render(request, "billing/credits.html", context, status=status)


def _head(request: MemberRequest, *, now: datetime) -> dict[str, Any]:
    """Return what stands above the entries."""
    organization = request.membership.organization
    balance = ledger.balance(organization.pk)
    burn = spending.burn(organization.pk, available_nano=balance.available, now=now)
    return {
        "balance": balance,
        "held": statement.held(organization.pk),
        "expiring": statement.expiring(organization.pk),
        "burn": burn,
        "lasts": spending.lasting(burn.lasts) if burn and burn.lasts is not None else "",
        "first_charge_at": spending.first_charge_at(organization.pk) if burn is None else None,
        "may_redeem": has_role(request.membership, Role.ADMIN),
        "form": RedeemForm(),
    }


def chart_axis(days: list[date]) -> tuple[list[str], list[str]]:
    """Return the labels of days, and where each leads: to its charges."""
    address = reverse("credits")
    return (
        [f"{day:%-d %b}" for day in days],
        [f"{address}?kind=usage&since={day:%Y-%m-%d}&until={day:%Y-%m-%d}#entries" for day in days],
    )


def entry(request: MemberRequest, detail: statement.Detail, *, lines: Sequence[Line], has_log: bool) -> HttpResponse:
    """Show one entry in full; the roof brings the lines of a call's cost and tells whether its log is still kept."""
    context = {
        "detail": detail,
        "row": detail.row,
        "lines": lines,
        "has_log": has_log,
        "prices": _prices(detail.rates) if detail.rates else [],
        # As one line more, so that it is written with all its digits as they are.
        "sum": Line("Sum", sum(line.amount_micro_nano for line in lines), 1, MILLION),
        "now": timezone.now(),
    }
    return render(request, "billing/entry.html", context)


def _prices(rates: Rates) -> list[tuple[str, int, bool]]:
    """Return what a version of rates charges for: label, price in nano-USD, whether that is per million tokens."""
    found = [
        ("Input", rates.input, True),
        ("Input read from cache", rates.cache_read_or_input, True),
        ("Input written to cache", rates.cache_write_or_input, True),
        ("Output", rates.output, True),
        ("Images", rates.image, False),
        ("Request", rates.request, False),
    ]
    return [(label, price, is_per_million) for label, price, is_per_million in found if price or is_per_million]


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.ADMIN)
def redeem(request: MemberRequest) -> HttpResponse:
    """Add a code's credits, then go to Credits; a code that is refused stays in its field, with the reason."""
    if request.method != "POST":
        return _redeem_form(request, RedeemForm())
    form = RedeemForm(request.POST)
    if not form.is_valid():
        return _redeem_form(request, form, status=HTTPStatus.BAD_REQUEST)
    try:
        redeemed = codes.redeem(
            organization=request.membership.organization,
            text=form.cleaned_data["code"],
            user=request.user,
            address=audit.client_address(request),
        )
    except Error as error:
        form.add_error("code", error.message)
        return _redeem_form(request, form, status=error.status)
    amount = usd(redeemed.redemption.entry.amount)
    if redeemed.is_new:
        messages.success(request, f"{amount} of credits added.")
    else:
        messages.info(request, f"Your organization has redeemed this code already: its {amount} were added then.")
    if wants_fragment(request):
        return HttpResponse(status=HTTPStatus.NO_CONTENT, headers={"HX-Redirect": reverse("credits")})
    return redirect("credits")


def _redeem_form(request: MemberRequest, form: RedeemForm, *, status: int = HTTPStatus.OK) -> HttpResponse:
    return render(request, "billing/redeem.html", {"form": form}, status=status)


@require_safe
@require_role(Role.MEMBER)  # type: ignore[arg-type]  # a stream is no HttpResponse
def entries_csv(request: MemberRequest) -> HttpResponseBase:
    """Send every entry that the filters leave, newest first, as CSV."""
    organization = request.membership.organization
    asked = EntriesForm({name: request.GET.get(name, "").strip() for name in _FILTERS}).asked()
    if asked is None:
        raise Http404("There are no such entries.")
    text = export.lines(statement.all_entries(organization_id=organization.pk, asked=asked))
    name = f"respan-credits-{organization.public_id}-{timezone.now():%Y-%m-%d}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "private, no-store"}
    content = _awaited(text) if isinstance(request, ASGIRequest) else text
    return StreamingHttpResponse(content, content_type="text/csv; charset=utf-8; header=present", headers=headers)


async def _awaited(parts: Iterator[str]) -> AsyncIterator[str]:
    """Yield parts that are read from the database one at a time, as the client takes them."""
    while part := await sync_to_async(_next)(parts):
        yield part


def _next(parts: Iterator[str]) -> str:
    return next(parts, "")


@require_safe
@require_role(Role.MEMBER)
def month(request: MemberRequest) -> HttpResponse:
    """Show the statement of a month, made to be printed; the current month where none is asked for."""
    organization = request.membership.organization
    now = timezone.now()
    today = now.astimezone(UTC).date()
    months = statement.months(organization.pk, today=today)
    chosen = today.replace(day=1)
    if "month" in request.GET:
        form = MonthForm(request.GET)
        if not form.is_valid() or form.cleaned_data["month"] not in months:
            raise Http404("There is no statement of this month.")
        chosen = form.cleaned_data["month"]
    context = {
        "months": months,
        "statement": statement.statement(organization.pk, month=chosen),
        "is_running": chosen == months[0],
        "now": now,
    }
    return render(request, "billing/statement.html", context)
