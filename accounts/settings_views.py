"""The Settings page: the organization's name, how long it keeps what, and its deletion.

Members read it, admins change it, owners delete. Neighbours: `organizations.py`, `people_forms.py`.
"""

from http import HTTPStatus

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST

from accounts import audit, members, organizations
from accounts.models import ApiKey, Membership, Role
from accounts.people_forms import DeletionForm, OrganizationNameForm, RetentionForm
from accounts.tenancy import MemberRequest, has_role, require_role
from respan import pages
from respan.errors import Error


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.MEMBER)
def settings_page(request: MemberRequest) -> HttpResponse:
    """Show the organization's facts; a POST renames it."""
    if request.method != "POST":
        return _page(request)
    _require_admin(request)
    form = OrganizationNameForm(request.POST)
    if not form.is_valid():
        return _page(request, name_form=form, status=HTTPStatus.BAD_REQUEST)
    try:
        organizations.rename(
            organization=request.membership.organization,
            name=form.cleaned_data["name"],
            actor=request.user,
            address=audit.client_address(request),
        )
    except members.RoleTooLow as error:
        raise PermissionDenied(error.message) from None
    messages.success(request, "The name is saved.")
    return redirect("settings")


@require_POST
@require_role(Role.ADMIN)
def retention(request: MemberRequest) -> HttpResponse:
    """Change how long logs are kept; a shorter time deletes what is older, and so asks first."""
    organization = request.membership.organization
    form = RetentionForm(request.POST)
    if not form.is_valid():
        return _page(request, retention_form=form, status=HTTPStatus.BAD_REQUEST)
    days = form.cleaned_data["retention_days"]
    is_shorter = (days or organizations.longest_retention()) < organizations.kept_days(organization)
    if is_shorter and not form.cleaned_data["confirmed"]:
        return pages.render(request, "accounts/settings_retention.html", {"form": form, "days": days})
    try:
        organizations.keep(
            organization=organization,
            days=days,
            zero_retention=form.cleaned_data["zero_retention"],
            actor=request.user,
            address=audit.client_address(request),
        )
    except members.RoleTooLow as error:
        raise PermissionDenied(error.message) from None
    except Error as error:
        form.add_error("retention_days", error.message)
        return _page(request, retention_form=form, status=error.status)
    messages.success(request, "Retention is saved. Running servers follow within 5 seconds.")
    return redirect("settings")


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.OWNER)
def delete_organization(request: MemberRequest) -> HttpResponse:
    """Offer what can be taken along, ask for the name, then delete the organization."""
    organization = request.membership.organization
    form = DeletionForm(request.POST if request.method == "POST" else None, organization=organization)
    if not form.is_valid():
        context = {
            "form": form,
            "members": Membership.objects.filter(organization=organization).count(),
            "keys": ApiKey.objects.filter(organization=organization, revoked_at=None).count(),
        }
        status = HTTPStatus.BAD_REQUEST if form.is_bound else HTTPStatus.OK
        return pages.render(request, "accounts/organization_delete.html", context, status=status)
    try:
        organizations.delete(
            organization=organization, actor=request.user, now=timezone.now(), address=audit.client_address(request)
        )
    except members.RoleTooLow as error:
        raise PermissionDenied(error.message) from None
    messages.success(request, f"“{organization.name}” is deleted. Its logs are removed within minutes.")
    return redirect("account")


def _require_admin(request: MemberRequest) -> None:
    if not has_role(request.membership, Role.ADMIN):
        raise PermissionDenied("Owners and admins change the settings.")


def _page(
    request: MemberRequest,
    *,
    name_form: OrganizationNameForm | None = None,
    retention_form: RetentionForm | None = None,
    status: int = HTTPStatus.OK,
) -> HttpResponse:
    organization = request.membership.organization
    kept = {"retention_days": organization.retention_days, "zero_retention": organization.zero_retention}
    context = {
        "name_form": name_form or OrganizationNameForm(initial={"name": organization.name}),
        "retention_form": retention_form or RetentionForm(initial=kept),
        "kept_days": organizations.kept_days(organization),
        "longest": organizations.longest_retention(),
        "may_change": has_role(request.membership, Role.ADMIN),
        "is_owner": has_role(request.membership, Role.OWNER),
    }
    return pages.render(request, "accounts/settings.html", context, status=status)
