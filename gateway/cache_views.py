"""The Caches page: what is answered again without a provider, what that has saved, and how the cache is to work.

Every member reads it; owners and admins change the settings and delete. Each view translates the request, makes one
domain call and answers with a page or a redirect; every query starts at the reader's organization. Neighbours:
`cache_entries.py` (what there is), `settings_changes.py` (keeps the settings), `call_settings_views.py` (its sisters).
"""

from http import HTTPStatus
from typing import Any, Final

from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from accounts.models import Role
from accounts.tenancy import MemberRequest, has_role, require_role
from gateway import cache_entries, settings_changes
from gateway.call_settings_views import by, put, require_admin
from gateway.models import CachedAnswer, CallSettings
from gateway.settings_changes import MOST_TTL_S
from respan import pages
from respan.errors import Error

PAGE_SIZE: Final = 50
# Who looks further uses the API.
MOST_PAGES: Final = 200


class CacheForm(forms.Form):
    """How the cache works where a call says nothing."""

    enabled = forms.BooleanField(
        label="Keep answers",
        required=False,
        help_text="For every call that does not send cache_enabled itself.",
    )
    ttl_s = forms.IntegerField(
        label="Lifetime, in seconds",
        min_value=1,
        max_value=MOST_TTL_S,
        help_text="1,800 is half an hour. A call that sends cache_ttl decides for itself.",
        widget=forms.NumberInput(attrs={"inputmode": "numeric"}),
    )
    by_customer = forms.BooleanField(
        label="Tell customers apart",
        required=False,
        help_text="An answer is given again to the same customer_identifier only.",
    )
    by_model = forms.BooleanField(
        label="Tell models apart",
        required=False,
        help_text="Otherwise the same question gets the same answer, whichever model it names.",
    )
    omit_log = forms.BooleanField(
        label="No logs of hits",
        required=False,
        help_text="What the cache answers leaves no log; hits are still counted.",
    )


class ConfirmForm(forms.Form):
    """The question before everything is deleted."""

    confirmed = forms.BooleanField(label="Delete them", error_messages={"required": "Tick this to be sure."})


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.MEMBER)
def caches(request: MemberRequest) -> HttpResponse:
    """Show what is kept; a POST changes how the cache works."""
    if request.method != "POST":
        return _page(request)
    require_admin(request)
    form = CacheForm(request.POST)
    if not form.is_valid():
        return _page(request, form, status=HTTPStatus.BAD_REQUEST)
    try:
        settings_changes.change_cache(organization=request.membership.organization, **form.cleaned_data, by=by(request))
    except Error as error:
        put(form, error)
        return _page(request, form, status=HTTPStatus.BAD_REQUEST)
    messages.success(request, "The cache is saved. Running servers follow within 5 seconds.")
    return redirect("caches")


@require_safe
@require_role(Role.MEMBER)
def cached_answer(request: MemberRequest, cache_key: str) -> HttpResponse:
    """Show one answer that is kept."""
    entry = _get(request, cache_key)
    context = {"entry": entry, "shown": cache_entries.listed(entry), "may_change": _may_change(request)}
    return pages.render(request, "gateway/cached_answer.html", context)


@require_http_methods(["POST"])
@require_role(Role.ADMIN)
def delete_cached_answer(request: MemberRequest, cache_key: str) -> HttpResponse:
    """Delete one answer; the next who asks for it calls the model."""
    entry = _get(request, cache_key)
    try:
        cache_entries.remove(entry, actor=request.user, address=by(request).address)
    except Error as error:
        messages.error(request, error.message)
        return redirect("caches")
    messages.success(request, "The answer is deleted. Who asks the same next is answered by the model.")
    return redirect("caches")


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.ADMIN)
def clear_caches(request: MemberRequest) -> HttpResponse:
    """Ask, then delete all that is kept in the environment looked at."""
    organization, environment = request.membership.organization, request.environment or None
    form = ConfirmForm(request.POST if request.method == "POST" else None)
    if not form.is_valid():
        found = cache_entries.savings(cache_entries.entries(organization.pk, environment=environment))
        status = HTTPStatus.BAD_REQUEST if form.is_bound else HTTPStatus.OK
        return pages.render(request, "gateway/caches_clear.html", {"form": form, "savings": found}, status=status)
    try:
        number = cache_entries.clear(
            organization=organization, environment=environment, actor=request.user, address=by(request).address
        )
    except Error as error:
        messages.error(request, error.message)
        return redirect("caches")
    messages.success(request, f"{number:,} answer{'' if number == 1 else 's'} deleted.")
    return redirect("caches")


def _may_change(request: MemberRequest) -> bool:
    return has_role(request.membership, Role.ADMIN)


def _get(request: MemberRequest, cache_key: str) -> CachedAnswer:
    key = cache_entries.key_of(cache_key)
    found = cache_entries.entries(request.membership.organization.pk, environment=None)
    entry = found.filter(key=key).select_related("organization").first() if key is not None else None
    if entry is None:
        raise Http404
    return entry


def _page(request: MemberRequest, form: CacheForm | None = None, *, status: int = HTTPStatus.OK) -> HttpResponse:
    organization = request.membership.organization
    row = settings_changes.read(organization)
    found = cache_entries.entries(organization.pk, environment=request.environment or None)
    number = _page_number(request.GET.get("page", ""))
    start = (number - 1) * PAGE_SIZE
    rows = list(found.defer("request", "body", "events")[start : start + PAGE_SIZE + 1])
    context: dict[str, Any] = {
        "settings": row,
        "form": form or CacheForm(initial=_initial(row)),
        "may_change": _may_change(request),
        "rows": rows[:PAGE_SIZE],
        "savings": cache_entries.savings(found),
        "newer": number - 1 if number > 1 else None,
        "older": number + 1 if len(rows) > PAGE_SIZE and number < MOST_PAGES else None,
        "now": timezone.now(),
        "snippet": _snippet(),
    }
    return pages.render(request, "gateway/caches.html", context, status=status)


def _initial(row: CallSettings) -> dict[str, Any]:
    return {
        "enabled": row.cache_enabled,
        "ttl_s": row.cache_ttl_s,
        "by_customer": row.cache_by_customer,
        "by_model": row.cache_by_model,
        "omit_log": row.cache_omit_log,
    }


def _page_number(text: str) -> int:
    return max(1, min(int(text), MOST_PAGES)) if text.isascii() and text.isdigit() and len(text) < 6 else 1


def _snippet() -> str:
    """Return two equal calls: the second one is a hit."""
    return f"""\
for each in 1 2; do
  curl -si {settings.RESPAN_BASE_URL}/api/chat/completions \\
    -H "Authorization: Bearer $RESPAN_API_KEY" \\
    -H "Content-Type: application/json" \\
    -d '{{"model": "sandbox/echo", "cache_enabled": true,
         "messages": [{{"role": "user", "content": "Say it twice"}}]}}' | grep -i x-respan-cache
done"""
