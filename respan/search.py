"""What Cmd-K finds beside the pages of the rail: API keys, models, logs, provider keys, docs, for admins members.

Part of the roof: asks each app for a handful and composes; four queries at most, all of the reader's organization.
Never searches the content of calls. Neighbours: `assets/palette.js` (asks), `traces.reading.recent`.
"""

import re
from typing import Final
from urllib.parse import urlencode

from django.db.models import F, Q
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import reverse
from django.views.decorators.http import require_safe

from accounts.models import ApiKey, Membership, Organization, Role
from accounts.tenancy import has_role, require_role
from gateway.models import Credential
from gateway.providers import Model, catalog
from respan import docs, ids
from traces import reading

_EACH: Final = 6
_OF_DOCS: Final = 4
_AN_ID: Final = re.compile(r"rsp_|[a-z]{2,5}_[0-9A-Za-z]{8,}$")
_MOST_CHARS: Final = 100
# Shorter than this, a text means too many logs to be worth the query.
_LEAST_OF_A_LOG: Final = 2
Result = dict[str, str]


@require_safe
@require_role(Role.MEMBER)
def search(request: HttpRequest) -> HttpResponse:
    """Answer `{"results": [{label, detail, group, url}]}` for `?q=`, at most a handful of each kind."""
    text = _storable(request.GET.get("q", "")).strip()[:_MOST_CHARS]
    membership: Membership = request.membership  # type: ignore[attr-defined]
    answer = JsonResponse({"results": _found(membership, text) if text else []})
    answer["Cache-Control"] = "private, no-store"
    return answer


def _storable(text: str) -> str:
    return text.replace("\x00", "").encode(errors="replace").decode()


def _found(membership: Membership, text: str) -> list[Result]:
    organization = membership.organization
    results = [*_keys(organization, text), *_models(text), *_provider_keys(membership, text)]
    if has_role(membership, Role.ADMIN):
        results += _members(organization, text)
    return [*results, *_docs(text), *_logs(organization, text)]


def _keys(organization: Organization, text: str) -> list[Result]:
    """By name, by what is shown of a key, or by a whole key somebody found."""
    means = Q(name__icontains=text) | Q(public_id=text)
    if text.startswith("rsp_"):
        means |= Q(prefix__startswith=text[:13])
    works_first = F("revoked_at").desc(nulls_first=True)
    found = ApiKey.objects.filter(means, organization=organization).order_by(works_first, "-created_at")[:_EACH]
    return [
        {
            "label": key.name,
            "detail": f"{key.prefix}…{key.last_four}{' · revoked' if key.revoked_at else ''}",
            "group": "API keys",
            "url": f"{reverse('logs')}?{urlencode({'range': '30d', 'key': key.public_id})}"
            if key.revoked_at
            else reverse("api-keys"),
        }
        for key in found
    ]


def _models(text: str) -> list[Result]:
    """By id or name; those that begin with the text first."""
    wanted = text.casefold()
    found = [model for model in catalog().models() if wanted in f"{model.full_name} {model.name}".casefold()]
    found.sort(key=lambda model: not model.id.casefold().startswith(wanted))
    return [
        {
            "label": model.id,
            "detail": _provider_name(model),
            "group": "Models",
            "url": reverse("model", args=[model.full_name]),
        }
        for model in found[:_EACH]
    ]


def _provider_name(model: Model) -> str:
    return catalog().providers[model.provider].name


def _provider_keys(membership: Membership, text: str) -> list[Result]:
    """By provider or name; admins get to the key, members to the page that lists them."""
    providers = catalog().providers
    meant = [id_ for id_, provider in providers.items() if text.casefold() in f"{id_} {provider.name}".casefold()]
    found = Credential.objects.filter(
        Q(name__icontains=text) | Q(provider__in=meant), organization=membership.organization
    ).order_by("provider", "name")
    may_open = has_role(membership, Role.ADMIN)
    return [
        {
            "label": f"{providers[key.provider].name if key.provider in providers else key.provider} · {key.name}",
            "detail": "Provider key",
            "group": "Integrations",
            "url": reverse("integration", args=[key.public_id]) if may_open else reverse("integrations"),
        }
        for key in found[:_EACH]
    ]


def _members(organization: Organization, text: str) -> list[Result]:
    found = Membership.objects.filter(
        Q(user__email__icontains=text) | Q(user__name__icontains=text), organization=organization
    ).select_related("user")
    return [
        {
            "label": member.user.name or member.user.email,
            "detail": f"{member.user.email} · {member.get_role_display()}",
            "group": "Members",
            "url": reverse("members"),
        }
        for member in found.order_by("user__email")[:_EACH]
    ]


def _docs(text: str) -> list[Result]:
    """By words; ids and keys are no words, their pieces would find anything."""
    if _AN_ID.match(text):
        return []
    return [
        {"label": hit.title, "detail": hit.section if hit.section != hit.title else "", "group": "Docs", "url": hit.url}
        for hit in docs.index().search(text, _OF_DOCS)
    ]


def _logs(organization: Organization, text: str) -> list[Result]:
    """Recent ones by model, customer or thread; any by the beginning of its id."""
    if len(text) < _LEAST_OF_A_LOG:
        return []
    try:
        found = reading.recent(organization_id=organization.pk, text=text, limit=_EACH)
    except reading.SearchTooSlow:
        return []
    return [_log(log) for log in found]


def _log(log: reading.Log) -> Result:
    public_id = ids.encode("log", log.id)
    who = log.customer_name or log.customer_identifier or log.thread_identifier or log.environment
    label = log.input_preview or public_id
    return {
        "label": label[:80],
        "detail": f"{log.request_model} · {who} · {log.started_at:%-d %b %H:%M} UTC",
        "group": "Recent logs",
        "url": reverse("log", args=[public_id]),
    }
