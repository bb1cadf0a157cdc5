"""The Fallback and Retries pages: what an organization's calls do when an attempt fails, where they say nothing else.

Every member reads them, owners and admins change them. Each view translates the request, makes one domain call and
answers with a page, the part of it that htmx swaps, or a redirect. Neighbours: `settings_changes.py` (keeps),
`standing.py` (who would answer), `load_balance_views.py` (the third page under Routing).
"""

import zlib
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST

from accounts import audit
from accounts.models import Organization, Role
from accounts.tenancy import MemberRequest, has_role, require_role
from gateway import settings_changes
from gateway.call_settings_forms import FallbackForm, MoveForm, RetriesForm, SwitchForm
from gateway.retrying import LONGEST_PAUSE_S, MOST_ATTEMPTS
from gateway.settings_changes import By
from gateway.standing import Facts, Standing
from respan import pages
from respan.errors import Error

# About 30 bytes each, and nobody scrolls further.
MOST_OFFERED: Final = 300
# However small or large the first pause is.
MOST_PAUSE_MS: Final = int(LONGEST_PAUSE_S * 1_000)


# What is said of a model that was removed, by this reader or another.
_GONE: Final = "The model is not in the list any more."


def facts(organization: Organization) -> Facts:
    """Return what names of models are judged by for an organization now."""
    return settings_changes.facts(organization, today=timezone.now().date())


def by(request: MemberRequest) -> By:
    """Return who sends a request, for the audit log."""
    return By(request.user, audit.client_address(request))


def require_admin(request: MemberRequest) -> None:
    """Refuse who may only read. Raises: PermissionDenied."""
    if not has_role(request.membership, Role.ADMIN):
        raise PermissionDenied("Owners and admins change how calls are carried out.")


def put(form: forms.Form, error: Error) -> None:
    """Show a refusal beside the field it is about."""
    form.add_error(error.param if error.param in form.fields else None, error.message)


# --- Fallback ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """A model of the list at its place, counted from 1; `id` is a part of HTML ids."""

    id: str
    place: int
    standing: Standing


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.MEMBER)
def fallback(request: MemberRequest) -> HttpResponse:
    """Show the list; a POST puts a model at its end."""
    if request.method != "POST":
        return _fallback_page(request)
    require_admin(request)
    form = FallbackForm(request.POST)
    if not form.is_valid():
        return _fallback_page(request, form=form, status=HTTPStatus.BAD_REQUEST)
    model, organization = form.cleaned_data["model"], request.membership.organization
    known = facts(organization)
    try:
        settings_changes.add_fallback(organization=organization, model=model, facts=known, by=by(request))
    except Error as error:
        put(form, error)
        return _fallback_page(request, form=form, known=known, status=HTTPStatus.BAD_REQUEST)
    return _fallback_changed(request, f"{model} is in the list.")


@require_POST
@require_role(Role.ADMIN)
def switch_fallback(request: MemberRequest) -> HttpResponse:
    """Use the list or leave it unused."""
    form = SwitchForm(request.POST)
    enabled = form.is_valid() and form.cleaned_data["enabled"]
    settings_changes.switch_fallback(organization=request.membership.organization, enabled=enabled, by=by(request))
    return _fallback_changed(request, f"Fallback is {'on' if enabled else 'off'}.")


@require_POST
@require_role(Role.ADMIN)
def move_fallback(request: MemberRequest) -> HttpResponse:
    """Give a model another place in the list."""
    form = MoveForm(request.POST)
    if not form.is_valid():
        return _fallback_page(request, status=HTTPStatus.BAD_REQUEST)
    model = form.cleaned_data["model"]
    place = settings_changes.move_fallback(
        organization=request.membership.organization, model=model, place=form.cleaned_data["place"], by=by(request)
    )
    return _fallback_changed(request, f"{model} is tried as number {place}." if place else _GONE)


@require_POST
@require_role(Role.ADMIN)
def remove_fallback(request: MemberRequest) -> HttpResponse:
    """Take a model out of the list."""
    form = FallbackForm(request.POST)
    if not form.is_valid():
        return _fallback_page(request, status=HTTPStatus.BAD_REQUEST)
    model = form.cleaned_data["model"]
    settings_changes.remove_fallback(organization=request.membership.organization, model=model, by=by(request))
    return _fallback_changed(request, _GONE)


def _fallback_changed(request: MemberRequest, said: str) -> HttpResponse:
    """Say what came of a change: in place for htmx, else above the list."""
    if pages.wants_fragment(request):
        return _fallback_page(request, said=said)
    messages.success(request, said)
    return redirect("fallback")


def _fallback_page(
    request: MemberRequest,
    *,
    form: FallbackForm | None = None,
    known: Facts | None = None,
    said: str = "",
    status: int = HTTPStatus.OK,
) -> HttpResponse:
    organization = request.membership.organization
    kept, known = settings_changes.read(organization), known or facts(organization)
    may_change = has_role(request.membership, Role.ADMIN)
    names = list(kept.fallback_models)
    context: dict[str, Any] = {
        "tab": "fallback",
        "form": form or FallbackForm(),
        "settings": kept,
        "lines": [_line(place, known.of(name)) for place, name in enumerate(names, start=1)],
        "said": said,
        "may_change": may_change,
        "is_full": len(names) >= settings_changes.MOST_FALLBACKS,
        "most": settings_changes.MOST_FALLBACKS,
        "offered": [name for name in known.offered(MOST_OFFERED) if name not in names] if may_change else [],
    }
    return pages.render(request, "gateway/fallback.html", context, status=status)


def _line(place: int, standing: Standing) -> Line:
    # A name may hold what no id may.
    return Line(f"{zlib.crc32(standing.name.encode()):08x}", place, standing)


# --- Retries ----------------------------------------------------------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.MEMBER)
def retries(request: MemberRequest) -> HttpResponse:
    """Show what is done after a failure; a POST changes it. With fields in its address it shows what they would do."""
    organization = request.membership.organization
    if request.method != "POST":
        typed = RetriesForm(request.GET) if pages.wants_fragment(request) and request.GET else None
        return _retries_page(request, typed)
    require_admin(request)
    form = RetriesForm(request.POST)
    if not form.is_valid():
        return _retries_page(request, form, status=HTTPStatus.BAD_REQUEST)
    try:
        settings_changes.change_retries(
            organization=organization,
            enabled=form.cleaned_data["retry_enabled"],
            num_retries=form.cleaned_data["num_retries"],
            pause_ms=form.cleaned_data["retry_after_ms"],
            by=by(request),
        )
    except Error as error:
        put(form, error)
        return _retries_page(request, form, status=HTTPStatus.BAD_REQUEST)
    messages.success(request, "Retries are saved. Running servers follow within 5 seconds.")
    return redirect("retries")


def _retries_page(
    request: MemberRequest, form: RetriesForm | None = None, *, status: int = HTTPStatus.OK
) -> HttpResponse:
    kept = settings_changes.read(request.membership.organization)
    initial = {name: getattr(kept, name) for name in RetriesForm.base_fields}
    shown = form.cleaned_data if form is not None and form.is_valid() else initial
    context = {
        "tab": "retries",
        "form": form or RetriesForm(initial=initial),
        "settings": kept,
        "steps": steps(
            retries=shown["num_retries"] if shown["retry_enabled"] else 0,
            pause_ms=shown["retry_after_ms"],
            has_fallback=kept.fallback_enabled and bool(kept.fallback_models),
        ),
        "is_preview": form is not None and shown != initial,
        "may_change": has_role(request.membership, Role.ADMIN),
    }
    return pages.render(request, "gateway/retries.html", context, status=status)


def steps(*, retries: int, pause_ms: int, has_fallback: bool) -> list[str]:
    """Say in plain words what happens to a call whose attempts all fail."""
    others = "another key of yours for the same model" + (
        ", then the fallback list in its order" if has_fallback else ""
    )
    said = ["The model is asked.", f"If that fails, who else can answer is asked at once: {others}."]
    if retries:
        longest = [seconds(min(pause_ms * 2**number, MOST_PAUSE_MS)) for number in range(retries)]
        pauses = f"up to {longest[0]}" + (f", the second time up to {longest[1]}" if retries > 1 else "")
        said.append(f"If nobody else is left, the same model is asked again after a pause of {pauses}.")
        said.append(
            "If the provider says how long to wait and that is at most 10 s, the same model is asked again just then."
        )
    said.append(f"After {MOST_ATTEMPTS} attempts in all the caller gets the error of the model it asked for.")
    return said


def seconds(milliseconds: int) -> str:
    """Write a pause as people say it: `250 ms`, `1 s`, `1.5 s`."""
    return f"{milliseconds} ms" if milliseconds < 1_000 else f"{milliseconds / 1_000:g} s"
