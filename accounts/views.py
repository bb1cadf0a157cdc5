"""The pages of accounts: API keys, the reader's own account, creating and switching organizations.

Each view translates the request, makes one domain call and answers with a page or a redirect. Every query starts at
`request.membership.organization`: a foreign id is a 404. Neighbours: `keys.py`, `tenancy.py`, `forms.py`.
"""

from collections.abc import Iterable
from http import HTTPStatus

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import F
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST

from accounts import audit, keys, signup, tenancy
from accounts.forms import ApiKeyForm, OrganizationForm
from accounts.models import ApiKey, Membership, Role
from accounts.tenancy import MemberRequest, has_role, require_role
from respan import pages

_KEYS_PER_PAGE = 100


def may_revoke(membership: Membership, api_key: ApiKey) -> bool:
    """Tell whether a member may revoke a key: admins every key, members those they created."""
    return has_role(membership, Role.ADMIN) or api_key.created_by_id == membership.user_id


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.MEMBER)
def api_keys(request: MemberRequest) -> HttpResponse:
    """List the organization's keys and create one."""
    if request.method != "POST":
        return _key_list(request, ApiKeyForm())
    form = ApiKeyForm(request.POST)
    if not form.is_valid():
        return _key_list(request, form, status=HTTPStatus.BAD_REQUEST)
    return _create_api_key(request, form)


def _create_api_key(request: MemberRequest, form: ApiKeyForm) -> HttpResponse:
    """Answer the POST itself with the secret: a redirect would have to keep it somewhere in clear."""
    try:
        issued = keys.issue(
            organization=request.membership.organization,
            name=form.cleaned_data["name"],
            environment=form.cleaned_data["environment"],
            created_by=request.user,
            expires_at=form.cleaned_data["expires_at"],
            address=audit.client_address(request),
            request_id=form.cleaned_data["request_id"],
        )
    except keys.AlreadyIssued as repeated:
        messages.warning(
            request,
            f"“{repeated.api_key.name}” was created already, by the first press of the button; its secret was shown "
            "once, then. If you did not see it, revoke that key and create another.",
        )
        return redirect("api-keys")
    context = {
        "api_key": issued.api_key,
        "secret": issued.secret,
        "base_url": f"{settings.RESPAN_BASE_URL}/api/",
    }
    return pages.render(request, "accounts/api_key_created.html", context)


def _key_list(request: MemberRequest, form: ApiKeyForm, *, status: int = HTTPStatus.OK) -> HttpResponse:
    found = (
        ApiKey.objects.filter(organization=request.membership.organization)
        .select_related("created_by")
        .order_by(F("revoked_at").desc(nulls_first=True), "-created_at", "-id")
    )
    page = Paginator(found, _KEYS_PER_PAGE).get_page(request.GET.get("page"))
    context = {
        "form": form,
        "page": page,
        "revocable": _revocable(request.membership, page.object_list),
        "now": timezone.now(),
    }
    return pages.render(request, "accounts/api_keys.html", context, status=status)


def _revocable(membership: Membership, found: Iterable[ApiKey]) -> set[int]:
    return {api_key.pk for api_key in found if api_key.revoked_at is None and may_revoke(membership, api_key)}


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.MEMBER)
def revoke_api_key(request: MemberRequest, public_id: str) -> HttpResponse:
    """Ask, then revoke a key."""
    api_key = get_object_or_404(ApiKey, organization=request.membership.organization, public_id=public_id)
    if not may_revoke(request.membership, api_key):
        raise PermissionDenied("Members can revoke only the keys they created.")
    if request.method != "POST":
        return pages.render(request, "accounts/api_key_revoke.html", {"api_key": api_key})
    keys.revoke(api_key=api_key, actor=request.user, now=timezone.now(), address=audit.client_address(request))
    messages.success(request, f"“{api_key.name}” is revoked. Calls with it are refused within 5 seconds.")
    return redirect("api-keys")


@require_http_methods(["GET", "HEAD"])
@login_required
def account(request: HttpRequest) -> HttpResponse:
    """Show who is signed in and where they belong."""
    memberships = Membership.objects.filter(user=request.user.pk).select_related("organization").order_by("created_at")
    return pages.render(request, "accounts/account.html", {"memberships": memberships})


@require_POST
@login_required
def switch_organization(request: HttpRequest) -> HttpResponse:
    """Make another of the reader's organizations the current one; always lands on its home page."""
    membership = get_object_or_404(
        Membership.objects.select_related("organization"),
        user=request.user.pk,
        organization__public_id=request.POST.get("organization", "").replace("\x00", ""),
    )
    tenancy.switch(request, membership.organization)
    return redirect("home")


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
