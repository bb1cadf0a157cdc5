"""The reader's own account: name, how they sign in, where they are signed in, appearance, deleting it.

Only ever about `request.user`: no id of another person leads anywhere. E-mail addresses, passwords and second factors
are changed on django-allauth's pages, which this one leads to. Neighbours: `sessions.py`, `factors.py`, `departure.py`.
"""

from http import HTTPStatus
from typing import cast

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import logout
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from accounts import audit, departure, factors, sessions
from accounts.forms import DeleteAccountForm, PersonForm
from accounts.models import Membership, User
from respan import pages

_THEME_LIFE_S = 365 * 24 * 3600


def _user(request: HttpRequest) -> User:
    return cast(User, request.user)  # behind `login_required`


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def account(request: HttpRequest) -> HttpResponse:
    """Show who is signed in, how and where; a POST changes the name."""
    user = _user(request)
    if request.method == "POST":
        form = PersonForm(request.POST)
        if form.is_valid():
            user.name = form.cleaned_data["name"]
            user.save(update_fields=["name"])
            messages.success(request, "Your name is saved.")
            return redirect("account")
    else:
        form = PersonForm(initial={"name": user.name})
    return _page(request, user, form, status=HTTPStatus.BAD_REQUEST if form.errors else HTTPStatus.OK)


def _page(request: HttpRequest, user: User, form: PersonForm, *, status: int) -> HttpResponse:
    now = timezone.now()
    places = Membership.objects.filter(user=user, organization__deleted_at=None)
    context = {
        "form": form,
        "memberships": places.select_related("organization").order_by("created_at", "id"),
        "factors": factors.facts(user),
        "places": sessions.places(user, current=request.session.session_key, now=now),
        "now": now,
    }
    return pages.render(request, "accounts/account.html", context, status=status)


@require_POST
@login_required
def choose_theme(request: HttpRequest) -> HttpResponse:
    """Keep light, dark or the system's choice in the cookie that scripts read too."""
    response = redirect(f"{reverse('account')}#appearance")
    theme = request.POST.get("theme", "")
    if theme in pages.THEMES:
        response.set_cookie("theme", theme, max_age=_THEME_LIFE_S, samesite="Lax", secure=settings.RESPAN_IS_HTTPS)
    else:
        response.delete_cookie("theme", samesite="Lax")
    return response


@require_POST
@login_required
def end_session(request: HttpRequest, id: int) -> HttpResponse:
    """Sign one of the reader's other browsers out."""
    user = _user(request)
    if not sessions.end(user, id):
        raise Http404
    _record(request, user, 1)
    messages.success(request, "That browser is signed out.")
    return redirect(f"{reverse('account')}#sessions")


@require_POST
@login_required
def end_other_sessions(request: HttpRequest) -> HttpResponse:
    """Sign the reader out everywhere but here."""
    user = _user(request)
    count = sessions.end_others(user, keep=request.session.session_key)
    if count:
        _record(request, user, count)
    messages.success(request, "You are signed out everywhere else.")
    return redirect(f"{reverse('account')}#sessions")


def _record(request: HttpRequest, user: User, count: int) -> None:
    membership = getattr(request, "membership", None)
    audit.record(
        organization=membership.organization if membership else None,
        actor=user,
        action="user.session_ended",
        target=user.email,
        detail={"browsers": count},
        address=audit.client_address(request),
    )


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
@sensitive_post_parameters("password")
def delete_account(request: HttpRequest) -> HttpResponse:
    """Say what deleting means or what stands in its way; ask for the password, then do it."""
    user = _user(request)
    ties = departure.ties(user)
    form = DeleteAccountForm(request.POST if request.method == "POST" and not ties else None, user=user)
    if not ties and form.is_valid():
        try:
            departure.delete_account(user, now=timezone.now(), address=audit.client_address(request))
        except departure.StillNeeded:
            return redirect("account-delete")  # which says by whom or what
        logout(request)
        messages.success(request, "Your account is deleted.")
        return redirect("account_login")
    status = HTTPStatus.OK
    if request.method == "POST":
        status = HTTPStatus.CONFLICT if ties else HTTPStatus.BAD_REQUEST
    context = {"form": form, "ties": ties, **_ways_out()}
    return pages.render(request, "accounts/account_delete.html", context, status=status)


def _ways_out() -> dict[str, str]:
    """Return the addresses of the pages where ties are cut."""
    found = {}
    for key, name in (("members_url", "members"), ("deletion_url", "organization-delete")):
        try:
            found[key] = reverse(name)
        except NoReverseMatch:
            continue
    return found
