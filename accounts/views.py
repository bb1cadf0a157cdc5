"""The pages of accounts: API keys, the reader's own account, creating and switching organizations.

Each view translates the request, makes one domain call and answers with a page or a redirect. Every query starts at
`request.membership.organization`: a foreign id is a 404. Neighbours: `keys.py`, `tenancy.py`, `forms.py`.
"""

from datetime import datetime
from http import HTTPStatus
from urllib.parse import parse_qsl, urlencode

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Q
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import audit, keys, signup, tenancy
from accounts.forms import ApiKeyForm, ChangeKeyForm, OrganizationForm, RevokeForm, RotateForm
from accounts.models import ApiKey, Environment, Membership, Role, Scope
from accounts.tenancy import MemberRequest, has_role, require_role
from respan import pages

_KEYS_PER_PAGE = 100
# Keys that no longer work stand folded below the others; all of them have a list of their own.
_GONE_SHOWN = 20


def may_revoke(membership: Membership, api_key: ApiKey) -> bool:
    """Tell whether a member may change, rotate or revoke a key: admins every key, members those they created."""
    return has_role(membership, Role.ADMIN) or api_key.created_by_id == membership.user_id


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.MEMBER)
def api_keys(request: MemberRequest) -> HttpResponse:
    """List the organization's keys and create one."""
    if request.method != "POST":
        return _key_list(request, now=timezone.now())
    form = ApiKeyForm(request.POST)
    if not form.is_valid():
        return _new_key(request, form, status=HTTPStatus.BAD_REQUEST)
    try:
        issued = keys.issue(
            organization=request.membership.organization,
            name=form.cleaned_data["name"],
            environment=form.cleaned_data["environment"],
            created_by=request.user,
            expires_at=form.cleaned_data["expires_at"],
            scopes=form.cleaned_data["scopes"],
            zero_retention=form.cleaned_data["zero_retention"],
            address=audit.client_address(request),
            request_id=form.cleaned_data["request_id"],
        )
    except keys.AlreadyIssued as repeated:
        return _refuse_again(request, repeated)
    return _shown_once(request, issued)


@require_safe
@require_role(Role.MEMBER)
def new_api_key(request: MemberRequest) -> HttpResponse:
    """Show the form of a new key: a dialog of the list, a page where no scripts run."""
    return _new_key(request, ApiKeyForm(initial={"environment": request.environment or Environment.PRODUCTION}))


def _new_key(request: MemberRequest, form: ApiKeyForm, *, status: int = HTTPStatus.OK) -> HttpResponse:
    context = {"form": form, "in_dialog": pages.wants_fragment(request)}
    return pages.render(request, "accounts/api_key_new.html", context, status=status)


def _shown_once(request: MemberRequest, issued: keys.Issued, *, replaces: ApiKey | None = None) -> HttpResponse:
    """Answer the POST itself with the secret: a redirect would have to keep it somewhere in clear."""
    context = {
        "api_key": issued.api_key,
        "secret": issued.secret,
        "replaces": replaces,
        "may_call": Scope.CALL in issued.api_key.scopes,
        "base_url": f"{settings.RESPAN_BASE_URL}/api/",
        "in_dialog": pages.wants_fragment(request),
    }
    response = pages.render(request, "accounts/api_key_created.html", context)
    response["HX-Trigger"] = "api-keys-changed"  # the list behind the dialog
    return response


def _refuse_again(request: MemberRequest, repeated: keys.AlreadyIssued) -> HttpResponse:
    messages.warning(
        request,
        f"“{repeated.api_key.name}” was created already, by the first press of the button; its secret was shown "
        "once, then. If you did not see it, revoke that key and create another.",
    )
    return _to_the_list(request)


def _to_the_list(request: MemberRequest) -> HttpResponse:
    """Go to the list of keys; out of a dialog, as a whole page."""
    if not pages.wants_fragment(request):
        return redirect("api-keys")
    response = HttpResponse(status=HTTPStatus.NO_CONTENT)
    response["HX-Redirect"] = reverse("api-keys")
    return response


def _key_list(request: MemberRequest, *, now: datetime) -> HttpResponse:
    environment = request.GET.get("environment", request.environment)
    found = ApiKey.objects.filter(organization=request.membership.organization)
    if environment in Environment.values:
        found = found.filter(environment=environment)
    found = found.select_related("created_by", "replaced_by")
    is_gone = Q(revoked_at__isnull=False) | Q(expires_at__lte=now)
    gone = found.filter(is_gone).order_by(Coalesce("revoked_at", "expires_at").desc(), "-id")
    only_gone = request.GET.get("state") == "gone"
    listed = gone if only_gone else found.exclude(is_gone).order_by("-created_at", "-id")
    page = Paginator(listed, _KEYS_PER_PAGE).get_page(request.GET.get("page"))
    membership = request.membership
    context = {
        "page": page,
        "rows": [(api_key, may_revoke(membership, api_key)) for api_key in page.object_list],
        "gone": [] if only_gone else list(gone[: _GONE_SHOWN + 1]),
        "gone_shown": _GONE_SHOWN,
        "only_gone": only_gone,
        "looked_at": environment if environment in Environment.values else "",
        "now": now,
    }
    return pages.render(request, "accounts/api_keys.html", context)


def _changeable_key(request: MemberRequest, public_id: str, what: str) -> ApiKey:
    """Return a key this member may change, rotate or revoke. Raises: Http404; PermissionDenied."""
    api_key = get_object_or_404(ApiKey, organization=request.membership.organization, public_id=public_id)
    if not may_revoke(request.membership, api_key):
        raise PermissionDenied(f"Members can {what} only the keys they created.")
    return api_key


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.MEMBER)
def revoke_api_key(request: MemberRequest, public_id: str) -> HttpResponse:
    """Ask for the key's name, then revoke it."""
    api_key = _changeable_key(request, public_id, "revoke")
    form = RevokeForm(request.POST if request.method == "POST" else None, api_key=api_key)
    if not form.is_valid():
        context = {"api_key": api_key, "form": form, "in_dialog": pages.wants_fragment(request)}
        status = HTTPStatus.BAD_REQUEST if form.is_bound else HTTPStatus.OK
        return pages.render(request, "accounts/api_key_revoke.html", context, status=status)
    keys.revoke(api_key=api_key, actor=request.user, now=timezone.now(), address=audit.client_address(request))
    messages.success(request, f"“{api_key.name}” is revoked. Calls with it are refused within 5 seconds.")
    return _to_the_list(request)


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.MEMBER)
def change_api_key(request: MemberRequest, public_id: str) -> HttpResponse:
    """Show a key's name, scopes and end, and change them; never its secret, never its environment."""
    api_key, now = _changeable_key(request, public_id, "change"), timezone.now()
    form = ChangeKeyForm(request.POST if request.method == "POST" else None, api_key=api_key)
    if not keys.is_changeable(api_key, now=now) or not form.is_valid():
        status = HTTPStatus.BAD_REQUEST if request.method == "POST" else HTTPStatus.OK
        return _change_form(request, api_key, form, now=now, status=status)
    try:
        changed = keys.change(
            api_key=api_key,
            to=form.settings(),
            seen=form.cleaned_data["seen"],
            actor=request.user,
            now=now,
            address=audit.client_address(request),
        )
    except (keys.ChangedMeanwhile, keys.NoLongerChangeable):
        api_key.refresh_from_db()
        anew = ChangeKeyForm(api_key=api_key)
        return _change_form(request, api_key, anew, now=now, status=HTTPStatus.CONFLICT, was_late=True)
    if changed:
        messages.success(request, f"“{form.settings().name}” is changed. Calls with it see that within 5 seconds.")
    else:
        messages.info(request, f"“{api_key.name}” is as it was: nothing was different.")
    return _to_the_list(request)


def _change_form(
    request: MemberRequest, api_key: ApiKey, form: ChangeKeyForm, *, now: datetime, status: int, was_late: bool = False
) -> HttpResponse:
    context = {
        "api_key": api_key,
        "form": form,
        "is_changeable": keys.is_changeable(api_key, now=now),
        "was_late": was_late,
        "in_dialog": pages.wants_fragment(request),
    }
    return pages.render(request, "accounts/api_key_change.html", context, status=status)


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.MEMBER)
def rotate_api_key(request: MemberRequest, public_id: str) -> HttpResponse:
    """Ask how long the old key goes on, then put a new one in its place and show it once."""
    api_key = _changeable_key(request, public_id, "rotate")
    form = RotateForm(request.POST or None)
    if request.method != "POST" or not form.is_valid():
        context = {"api_key": api_key, "form": form, "in_dialog": pages.wants_fragment(request)}
        status = HTTPStatus.BAD_REQUEST if request.method == "POST" else HTTPStatus.OK
        return pages.render(request, "accounts/api_key_rotate.html", context, status=status)
    try:
        issued = keys.rotate(
            api_key=api_key,
            overlap=form.cleaned_data["overlap"],
            actor=request.user,
            now=timezone.now(),
            address=audit.client_address(request),
            request_id=form.cleaned_data["request_id"],
        )
    except keys.AlreadyIssued as repeated:
        return _refuse_again(request, repeated)
    except keys.AlreadyRevoked:
        messages.error(request, f"“{api_key.name}” is revoked: there is nothing to rotate. Create a new key instead.")
        return _to_the_list(request)
    api_key.refresh_from_db()
    return _shown_once(request, issued, replaces=api_key)


@require_POST
@login_required
def switch_organization(request: HttpRequest) -> HttpResponse:
    """Make another of the reader's organizations the current one; always lands on its home page."""
    membership = get_object_or_404(
        Membership.objects.select_related("organization"),
        user=request.user.pk,
        organization__deleted_at=None,
        organization__public_id=request.POST.get("organization", "").replace("\x00", ""),
    )
    tenancy.switch(request, membership.organization)
    return redirect("home")


@require_POST
@require_role(Role.MEMBER)
def switch_environment(request: MemberRequest) -> HttpResponse:
    """Look at the records of one environment, or of all, and go back to the page the switch was on."""
    tenancy.look_at(request, request.POST.get("environment", ""))
    back = request.POST.get("next", "")
    is_ours = url_has_allowed_host_and_scheme(back, allowed_hosts=None)
    return redirect(_without_environment(back) if is_ours and back.startswith("/") else "home")


def _without_environment(address: str) -> str:
    """Drop the filter that would overrule the switch, and a place in a list that no longer exists."""
    path, _, query = address.partition("?")
    kept = [(name, value) for name, value in parse_qsl(query) if name not in {"environment", "cursor", "page"}]
    return f"{path}?{urlencode(kept)}" if kept else path


@require_POST
@login_required
def create_organization(request: HttpRequest) -> HttpResponse:
    """Create an organization for somebody who has none."""
    user = request.user
    if not user.is_authenticated or not tenancy.may_create_organization(user):
        raise PermissionDenied("Who already belongs to an organization cannot create another one here.")
    form = OrganizationForm(request.POST)
    if not form.is_valid():
        context = {"may_create": True, "form": form}
        return pages.render(request, "accounts/no_organization.html", context, status=HTTPStatus.BAD_REQUEST)
    signup.create_organization(owner=user, name=form.cleaned_data["name"], address=audit.client_address(request))
    return redirect("home")
