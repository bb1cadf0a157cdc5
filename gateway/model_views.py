"""The Models pages: the whole catalogue as one table with filters and a comparison, and a page for each model.

A model's page is also what the table's drawer shows (htmx asks for it). Every member may read them. Each view
translates the address, asks `browsing.py`, and answers with a page or the part of it that htmx refreshes. Which models
can be called comes from the organization's keys and the operator's. Neighbours: `browsing.py` (rows, order),
`standing.py` (whether a call would be answered now), `snippets.py`, `billing.prices` (what a model has cost).
"""

from datetime import date, datetime
from functools import lru_cache
from typing import Any, Final

from django.conf import settings
from django.db.models import Q
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts.models import ApiKey, Role, Scope
from accounts.tenancy import MemberRequest, has_role, require_role
from billing import ledger, prices
from billing.usage import Rates
from gateway import browsing, credentials, snippets
from gateway.browsing import Mark, Row, Wanted
from gateway.credentials import Stored
from gateway.listing import Reach
from gateway.models import Credential
from gateway.providers import RANK, catalog
from gateway.routing import CUSTOM, PaidBy
from gateway.standing import Facts
from respan import pages

# The table's columns: name in the address, head, whether it holds numbers.
COLUMNS: Final = (
    ("model", "Model", False),
    ("provider", "Provider", False),
    ("context", "Context", True),
    ("max_output", "Max output", True),
    ("input", "Input", True),
    ("output", "Output", True),
    ("cache", "Cache read", True),
)
# About two kilobytes each.
_MOST_DRAWN: Final = 4_000
# How the classes of a price are called, and the attributes of Rates.
_CLASSES: Final = (
    ("Input", "input"),
    ("Output", "output"),
    ("Input read from cache", "cache_read_or_input"),
    ("Input written to cache", "cache_write_or_input"),
    ("Input written to cache for an hour", "cache_write_1h_or_input"),
)
# What a model's page tells beside the marks of the table.
_FURTHER: Final = (
    Mark("parallel_tools", "shuffle", "Several tools at once"),
    Mark("json_schema", "file-text", "JSON by a schema"),
    Mark("streaming", "activity", "Streaming"),
)
# What a price is not known of, so that calls on credits cannot ask for it; `UNPRICED` of providers.py.
_UNPRICED: Final = (
    ("audio", "Sound in what is asked"),
    ("audio_output", "Sound in the answer"),
    ("image_output", "Images in the answer"),
)
_THINKING: Final = {
    "none": "",
    "effort": "By an effort",
    "budget": "By a budget of tokens",
    "adaptive": "By itself; an effort steers it",
    "always_on": "Always; an effort steers it",
    "level": "By a level",
}


@require_safe
@require_role(Role.MEMBER)
def models_page(request: MemberRequest) -> HttpResponse:
    """Show the catalogue, filtered and sorted as the address says."""
    wanted = Wanted.read(dict(request.GET.lists()))
    own, platform = _keys(request)
    reach = Reach.of(own=own, platform=platform)
    found = browsing.find(catalog(), own=own, reach=reach, wanted=wanted)
    chat = browsing.chat_models(catalog())
    may_manage, today = has_role(request.membership, Role.ADMIN), timezone.now().date()
    context = {
        "wanted": wanted,
        "found": found,
        "drawn": [
            _draw(row, way, is_compared=row.name in wanted.compared, may_manage=may_manage, today=today)
            for row, way in found.rows
        ],
        "columns": [_column(wanted, *column) for column in COLUMNS],
        "compared": _compared(wanted, own, reach),
        "names_shown": {row.name for row, _ in found.rows},
        "clear": Wanted(sort=wanted.sort, descending=wanted.descending, compared=wanted.compared).query(),
        "without_comparison": wanted.query(compared=(), page=found.number),
        "marks": [(mark, mark.id in wanted.capabilities) for mark in browsing.MARKS],
        "contexts": [(tokens, browsing.count(tokens)) for tokens in sorted({*browsing.CONTEXTS, wanted.context} - {0})],
        "providers": _providers(own),
        "kinds": list(browsing.KINDS.items()),
        "chat_models": f"{chat:,}",
        "other_models": f"{len(browsing.rows(catalog())) - chat:,}",
        "total": f"{found.total:,}",
        "previous": wanted.query(page=found.number - 1) if found.number > 1 else None,
        "next": wanted.query(page=found.number + 1) if found.number < found.pages else None,
        "may_manage": may_manage,
        "most_compared": browsing.MOST_COMPARED,
    }
    answer = pages.render(request, "gateway/models.html", context)
    if pages.wants_fragment(request):
        # The address as people would write it; what is typed letter by letter does not fill the history.
        header = "HX-Replace-Url" if request.headers.get("HX-Trigger-Name") == "q" else "HX-Push-Url"
        answer[header] = f"{reverse('models')}?{wanted.query(page=found.number)}".rstrip("?")
    return answer


@require_safe
@require_role(Role.MEMBER)
def model_page(request: MemberRequest, model_id: str) -> HttpResponse:
    """Show one model: prices now and before, what it can do, whether it can be called now and how, who else has it."""
    own, platform = _keys(request)
    found = browsing.get(catalog(), model_id, own=own)
    if not found:
        raise Http404
    row, *others = found
    if others and not _is_vendors(row, others):
        return redirect(f"{reverse('models')}?{Wanted(text=model_id).query()}")
    if row.name != model_id:
        return redirect("model", row.name)
    provider, now = catalog().providers[row.model.provider], timezone.now()
    reach = Reach.of(own=own, platform=platform)
    available = ledger.balance(request.membership.organization.pk).available
    standing = Facts(catalog(), own, platform, available, now.date()).of(row.name)
    context = {
        "row": row,
        "model": row.model,
        "provider": provider,
        "docs_url": provider.docs_url if provider.docs_url.startswith("https://") else "",
        "is_custom": provider.id == CUSTOM,
        "standing": standing,
        "available": available,
        "has_no_credits": standing.way is None and available <= 0 and reach.way(row.model, provider) == "credits",
        "may_manage": has_role(request.membership, Role.ADMIN),
        "can": _capabilities(row) if row.model.kind == "chat" else [],
        "unsupported": sorted(row.model.unsupported),
        "long_above": browsing.exact(row.model.long_above_tokens),
        "prices": _prices(row),
        "unpriced": [words for name, words in _UNPRICED if name in row.model.unpriced],
        "history": _history(row),
        "kind": browsing.KINDS[row.model.kind],
        "thinking": _THINKING[row.model.thinking],
        "elsewhere": [
            (other, reach.way(other.model, catalog().providers[other.model.provider]))
            for other in browsing.elsewhere(catalog(), row)
        ],
        "snippets": snippets.of(row.model.kind, base_url=f"{settings.RESPAN_BASE_URL}/api/", model=row.name),
        "api_key": _key_to_call_with(request, now),
        "compare": Wanted(compared=(row.name,)).query(),
        "today": now.date(),
        "is_drawer": pages.wants_fragment(request),
    }
    return pages.render(request, "gateway/model.html", context)


def _key_to_call_with(request: MemberRequest, now: datetime) -> ApiKey | None:
    """Return the reader's newest key that may call models, of the environment looked at if there is one."""
    mine = ApiKey.objects.filter(
        Q(expires_at=None) | Q(expires_at__gt=now),
        organization=request.membership.organization,
        created_by=request.user,
        revoked_at=None,
        scopes__contains=[Scope.CALL.value],
    ).order_by("-created_at", "-id")
    return mine.filter(environment=request.environment).first() or mine.first()


def _keys(request: MemberRequest) -> tuple[list[Stored], tuple[Stored, ...]]:
    """Return the organization's own keys, and the operator's."""
    rows = Credential.objects.filter(organization=request.membership.organization)
    return [credentials.of(credential) for credential in rows], credentials.offered()


def _is_vendors(row: Row, others: list[Row]) -> bool:
    """Tell whether a model is its vendor's own, and not one that several others serve as well."""
    ranks = [catalog().providers[each.model.provider].rank for each in (row, *others)]
    return ranks[0] < min(RANK, *ranks[1:])


def _draw(row: Row, way: PaidBy | None, **told: Any) -> str:
    """Draw a row; those of the catalogue are kept, since two hundred of them take longer than all the rest."""
    draw = _drawn.__wrapped__ if row.model.provider == CUSTOM else _drawn
    text: str = draw(row, way, **told)
    return text


@lru_cache(maxsize=_MOST_DRAWN)
def _drawn(row: Row, way: PaidBy | None, *, is_compared: bool, may_manage: bool, today: date) -> str:
    told = {"row": row, "way": way, "is_compared": is_compared, "may_manage": may_manage, "today": today}
    return render_to_string("gateway/_model_row.html", told)


def _column(wanted: Wanted, name: str, head: str, is_number: bool) -> dict[str, Any]:
    order = ("descending" if wanted.descending else "ascending") if name == wanted.sort else "none"
    return {"name": name, "head": head, "is_number": is_number, "order": order, "query": wanted.sorted_by(name)}


def _providers(own: list[Stored]) -> list[tuple[str, str]]:
    """Return (id, name) of everything that has models, servers of one's own first."""
    mine = [(key.name, f"{key.name} (yours)") for key in own if key.provider == CUSTOM and key.models]
    listed = [(provider.id, provider.name) for provider in catalog().providers.values() if provider.models]
    return mine + sorted(listed, key=lambda each: each[1].casefold())


def _compared(wanted: Wanted, own: list[Stored], reach: Reach) -> list[dict[str, Any]]:
    """Return the models of the comparison; names that mean none are left out."""
    found = [row for name in wanted.compared for row in browsing.get(catalog(), name, own=own) if row.name == name]
    return [
        {
            "row": row,
            "way": reach.way(row.model, catalog().providers[row.model.provider]),
            "without": wanted.query(
                compared=tuple(name for name in wanted.compared if name != row.name), page=wanted.page
            ),
        }
        for row in found
    ]


def _capabilities(row: Row) -> list[tuple[Mark, bool]]:
    """Return what people ask about, and whether the model can do it."""
    return [(mark, mark.id in row.model.capabilities) for mark in (*browsing.MARKS, *_FURTHER)]


def _prices(row: Row) -> list[tuple[str, int, int | None]]:
    """Return (class, price, price of a long call) per 1,000,000 tokens; caches only where they have a price."""
    rates, long = row.model.rates, row.model.long_rates
    if rates is None:
        return []
    classes = _CLASSES[:1] if row.model.kind == "embedding" else _CLASSES
    kept = [each for each in classes if not each[1].startswith("cache_") or _has_own_price(rates, each[1])]
    return [(label, getattr(rates, name), getattr(long, name) if long else None) for label, name in kept]


def _has_own_price(rates: Rates, name: str) -> bool:
    return getattr(rates, name.removesuffix("_or_input")) is not None


def _history(row: Row) -> list[prices.Version]:
    """Return what calls of it were and are charged by, the newest first; nothing for a server of one's own."""
    return [] if row.model.provider == CUSTOM else prices.history(row.model.provider, row.model.id)
