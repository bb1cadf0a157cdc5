"""The operator's console as a whole: its start page, its navigation, spool and prices, and what its pages may load.

The tables are the apps' own (`*/admin.py`); here is what needs several of them. Facts only, of the installation and
not of a customer: no bodies, no secrets, and no query that grows with the number of calls. Neighbours:
`settings.UNFOLD` (names what is here), `accounts.console` (who may enter), `traces.watch` (spool and batches).
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, cast

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.contrib import admin
from django.db.models import Count, Max, Sum
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.template.response import TemplateResponse
from django.templatetags.static import static
from django.urls import reverse
from django.utils import timezone
from django.utils.decorators import sync_and_async_middleware

from accounts import console
from accounts.models import Organization
from billing.models import Entry, Hold, HoldOwner, ModelRates, PendingAdjustment, Sweep, Wallet
from billing.usage import usd
from gateway import credentials
from gateway.providers import Model, catalog
from traces import watch
from traces.models import DeadLetter
from traces.reading import SearchTooSlow

# What looks wrong when it is older: the worker sweeps every 30 s, a shipper reports every 5 s.
_LATE_BEAT: Final = timedelta(seconds=90)
_LATE_SHIPPER: Final = timedelta(seconds=30)
_LATE_BATCH: Final = timedelta(seconds=30)

# --- What its pages may load ------------------------------------------------------------------------------------------

# Alpine, which drives unfold's menus, compiles expressions; unfold writes its colours into a style element.
_RELAXED: Final = {"script-src": ["'unsafe-eval'"], "style-src": ["'unsafe-inline'"]}
_Middleware = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]


@sync_and_async_middleware
def relax_policy(get_response: Any) -> _Middleware:
    """Let pages under /admin/, and no others, load what the console's own scripts and styles need."""

    def relaxed(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if request.path_info.startswith("/admin/"):
            response._csp_update = _RELAXED  # type: ignore[attr-defined]  # django-csp's
        return response

    async def asynchronous(request: HttpRequest) -> HttpResponseBase:
        return relaxed(request, await get_response(request))

    def synchronous(request: HttpRequest) -> HttpResponseBase:
        return relaxed(request, get_response(request))

    return cast(_Middleware, asynchronous if iscoroutinefunction(get_response) else synchronous)


def logo(_: HttpRequest) -> str:
    """Return the address of the product's mark."""
    return static("respan.svg")


def style(_: HttpRequest) -> str:
    """Return the address of the few rules that our own pages of the console need."""
    return static("console.css")


# --- Navigation -------------------------------------------------------------------------------------------------------

_GROUPS: Final = (
    (
        "People",
        (
            ("Users", "group", "admin:accounts_user_changelist"),
            ("Organizations", "corporate_fare", "admin:accounts_organization_changelist"),
            ("Invitations", "mail", "admin:accounts_invitation_changelist"),
            ("API keys", "key", "admin:accounts_apikey_changelist"),
            ("E-mail addresses", "alternate_email", "admin:account_emailaddress_changelist"),
            ("Audit log", "history", "admin:accounts_auditevent_changelist"),
        ),
    ),
    (
        "Money",
        (
            ("Wallets", "account_balance_wallet", "admin:billing_wallet_changelist"),
            ("Entries", "receipt_long", "admin:billing_entry_changelist"),
            ("Holds", "lock_clock", "admin:billing_hold_changelist"),
            ("Grants", "redeem", "admin:billing_grant_changelist"),
            ("Approvals", "approval", "admin:billing_pendingadjustment_changelist"),
            ("Redeem codes", "confirmation_number", "admin:billing_redeemcode_changelist"),
            ("Rates", "sell", "admin:billing_modelrates_changelist"),
            ("Missing prices", "money_off", "console-missing-prices"),
        ),
    ),
    (
        "Providers",
        (
            ("Platform credentials", "vpn_key", "admin:gateway_credential_changelist"),
            ("Organization credentials", "passkey", "admin:gateway_organizationcredential_changelist"),
            ("Added models", "deployed_code", "admin:gateway_addedmodel_changelist"),
        ),
    ),
    (
        "Traces",
        (
            ("Batches", "inventory_2", "admin:traces_ingestbatch_changelist"),
            ("Dead letters", "report", "admin:traces_deadletter_changelist"),
            ("Spool and workers", "speed", "console-spool"),
        ),
    ),
)
_BADGES: Final = {
    "Approvals": "respan.console.waiting_approvals",
    "Dead letters": "respan.console.dead_letters",
}


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the groups of the side navigation; staff who are no operators have none but the way back."""
    back = {"title": "Back to Respan", "icon": "arrow_back", "link": reverse("home"), "active": _never}
    start_link = {"title": "Start", "icon": "home", "link": reverse("admin:index")}
    groups: list[dict[str, Any]] = [{"title": "", "items": [start_link, back]}]
    if console.is_operator(request):
        groups += [{"title": title, "separator": True, "items": list(map(_item, items))} for title, items in _GROUPS]
    return groups


def _item(item: tuple[str, str, str]) -> dict[str, Any]:
    title, icon, name = item
    badge = {"badge": _BADGES[title], "badge_variant": "warning"} if title in _BADGES else {}
    return {"title": title, "icon": icon, "link": reverse(name), **badge}


def _never(_: HttpRequest) -> bool:
    return False


def waiting_approvals(_: HttpRequest) -> int | str:
    """Return how many movements wait for a second operator, as a badge: nothing for none."""
    return PendingAdjustment.objects.filter(state=PendingAdjustment.State.WAITING).count() or ""


def dead_letters(_: HttpRequest) -> int | str:
    """Return how many dead letters there are, as a badge: nothing for none."""
    return DeadLetter.objects.count() or ""


# --- The start page ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fact:
    """A tile: what it is about, its figure or its moment, whether it looks right, what it means, where to go."""

    label: str
    value: str = ""
    at: datetime | None = None
    state: str = ""
    note: str = ""
    link: str = ""


def start(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Add the facts of the start page."""
    if not console.is_operator(request):
        return context
    now = timezone.now()
    return {
        **context,
        "title": "Operator's console",
        "app_list": [],
        "now": now,
        "groups": [("Work", _work(now)), ("Money", _money()), ("Traces on their way", _ways(now))],
    }


def _work(now: datetime) -> list[Fact]:
    organizations = Organization.objects.filter(deleted_at=None)
    queue = watch.queue(now=now)
    return [
        Fact(
            "Organizations",
            f"{organizations.count():,}",
            note=f"{organizations.filter(created_at__gt=now - timedelta(days=7)).count():,} new in 7 days",
            link=reverse("admin:accounts_organization_changelist"),
        ),
        Fact(
            "Calls of the last hour",
            f"{queue.calls_last_hour:,}",
            note="recorded, of all organizations",
            link=reverse("admin:traces_ingestbatch_changelist"),
        ),
        _open_holds(),
        _beat(now),
    ]


def _open_holds() -> Fact:
    held = Wallet.objects.filter(held__gt=0).aggregate(sum=Sum("held"))["sum"] or 0
    count = Hold.objects.filter(state=Hold.State.OPEN).count()
    link = f"{reverse('admin:billing_hold_changelist')}?state__exact=open"
    return Fact("Open holds", f"{count:,}", note=f"{usd(held)} reserved for calls under way", link=link)


def _beat(now: datetime) -> Fact:
    at = Sweep.objects.aggregate(at=Max("ran_at"))["at"]
    is_late = at is None or now - at > _LATE_BEAT
    note = "No worker has swept lately: are beat and worker running?" if is_late else "Beat and worker are at work"
    return Fact(
        "Last beat",
        at=min(at, now) if at else None,
        state="warn" if is_late else "ok",
        note=note,
        link=reverse("console-spool"),
    )


def _money() -> list[Fact]:
    waiting = PendingAdjustment.objects.filter(state=PendingAdjustment.State.WAITING).count()
    absorbed = Entry.objects.filter(kind=Entry.Kind.ABSORBED).aggregate(sum=Sum("amount"), n=Count("pk"))
    missing = len(unpriced_models())
    return [
        Fact(
            "Waiting for approval",
            f"{waiting:,}",
            state="warn" if waiting else "ok",
            note="above $100, by a second operator",
            link=f"{reverse('admin:billing_pendingadjustment_changelist')}?state__exact=waiting",
        ),
        Fact(
            "Absorbed",
            usd(absorbed["sum"] or 0),
            state="warn" if absorbed["n"] else "ok",
            note=f"{absorbed['n']:,} charges that neither hold nor balance could pay",
            link=f"{reverse('admin:billing_entry_changelist')}?kind__exact=absorbed",
        ),
        Fact(
            "Missing prices",
            f"{missing:,}",
            state="warn" if missing else "ok",
            note="models that nobody can call on credits",
            link=reverse("console-missing-prices"),
        ),
    ]


def _ways(now: datetime) -> list[Fact]:
    queue, spools = watch.queue(now=now), watch.spools(settings.RESPAN_SPOOL_DIR)
    lag_s = max((spool.lag_s(now) for spool in spools), default=0.0)
    is_late = queue.oldest_at is not None and now - queue.oldest_at > _LATE_BATCH
    shipper_at = HoldOwner.objects.aggregate(at=Max("seen_at"))["at"]
    is_silent = shipper_at is None or now - shipper_at > _LATE_SHIPPER
    link = reverse("console-spool")
    return [
        Fact(
            "Spool to database",
            f"{lag_s:.0f} s",
            state="warn" if lag_s > _LATE_SHIPPER.total_seconds() else "ok",
            note=f"{sum(spool.waiting for spool in spools):,} records wait on this host",
            link=link,
        ),
        Fact(
            "Batches not done",
            f"{queue.waiting:,}",
            state="warn" if is_late or queue.retried else "ok",
            note=f"{queue.retried:,} of them failed before",
            link=f"{reverse('admin:traces_ingestbatch_changelist')}?state=waiting",
        ),
        Fact(
            "Dead letters",
            f"{queue.dead_letters:,}",
            state="error" if queue.dead_letters else "ok",
            note="could not be stored; replay them" if queue.dead_letters else "everything could be stored",
            link=reverse("admin:traces_deadletter_changelist"),
        ),
        Fact(
            "Shipper heard",
            at=min(shipper_at, now) if shipper_at else None,
            state="warn" if is_silent else "ok",
            note="of any host",
            link=link,
        ),
    ]


# --- Spool and prices -------------------------------------------------------------------------------------------------


def _page(request: HttpRequest, template: str, title: str, **context: Any) -> HttpResponse:
    console.require_operator(request)
    return TemplateResponse(request, template, {**admin.site.each_context(request), "title": title, **context})


def spool_page(request: HttpRequest) -> HttpResponse:
    """Show what is on its way from this host's disk, through the batches, into the store."""
    console.require_operator(request)
    now = timezone.now()
    return _page(
        request,
        "admin/console_spool.html",
        "Spool and workers",
        now=now,
        spools=watch.spools(settings.RESPAN_SPOOL_DIR),
        facts=[*_ways(now), _beat(now), _messages()],
        owners=HoldOwner.objects.order_by("-seen_at")[:50],
        sweeps=Sweep.objects.order_by("name"),
    )


def _messages() -> Fact:
    count = watch.messages_waiting()
    if count is None:
        return Fact("Messages to workers", "–", note="The broker is not this database: ask it.")
    return Fact("Messages to workers", f"{count:,}", note="in the queue; batches wait without them too")


def unpriced_models() -> list[Model]:
    """Return the chat models that could be sold if they had rates in force: of the providers we hold a key for."""
    priced = set(ModelRates.objects.values_list("provider", "model").distinct())
    offered = {stored.provider for stored in credentials.offered()}
    return [
        model
        for model in catalog().models()
        if model.provider in offered
        and model.kind == "chat"
        and not model.free
        and (model.rates is None or (model.provider, model.id) not in priced)
    ]


def missing_prices_page(request: HttpRequest) -> HttpResponse:
    """Show the models without rates, and the calls of the last day whose cost is not known."""
    console.require_operator(request)
    now, calls, problem = timezone.now(), [], ""
    try:
        calls = watch.unpriced(now=now)
    except SearchTooSlow:
        problem = "There are too many calls of the last day to look through them here."
    return _page(
        request,
        "admin/console_prices.html",
        "Missing prices",
        models=unpriced_models(),
        calls=calls,
        problem=problem,
        now=now,
    )
