"""The Members page: who belongs to the organization, inviting, roles, removing, leaving, handing over.

Each view translates the request, makes one domain call and answers with a page or a redirect; what the domain refuses
is said on the Members page itself. Neighbours: `members.py`, `invitations.py`, `invitation_views.py` (the other side).
"""

from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from typing import Concatenate, ParamSpec, cast

from allauth.mfa.models import Authenticator
from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Page, Paginator
from django.db.models import Case, IntegerField, Q, Value, When
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import audit, emails, invitations, members
from accounts.models import Invitation, Membership, Role
from accounts.people_forms import DepartureForm, InviteForm, RoleForm, TransferForm
from accounts.tenancy import MemberRequest, has_role, require_role
from respan import pages
from respan.errors import Error

_P = ParamSpec("_P")
_MemberView = Callable[Concatenate[MemberRequest, _P], HttpResponse]
MEMBERS_PER_PAGE = 100
# Members listed to choose from; an organization with more hands over by making its new owner one first.
_MOST_LISTED = 1_000
_RANK = Case(
    *(When(role=role, then=Value(rank)) for rank, role in enumerate((Role.OWNER, Role.ADMIN, Role.MEMBER))),
    output_field=IntegerField(),
)


@require_safe
@require_role(Role.MEMBER)
def members_page(request: MemberRequest) -> HttpResponse:
    """List the members and, for admins, the open invitations."""
    return _page(request)


def _page(request: MemberRequest, *, status: int = HTTPStatus.OK) -> HttpResponse:
    place = request.membership
    wanted = request.GET.get("q", "").replace("\x00", "").strip()[:254]
    found = Membership.objects.filter(organization=place.organization).select_related("user")
    if wanted:
        found = found.filter(Q(user__email__icontains=wanted) | Q(user__name__icontains=wanted))
    page = Paginator(found.order_by(_RANK, "user__email", "pk"), MEMBERS_PER_PAGE).get_page(request.GET.get("page"))
    is_admin = has_role(place, Role.ADMIN)
    context = {
        "page": page,
        "wanted": wanted,
        "manageable": {each.pk for each in page.object_list if members.may_manage(place, each)},
        "two_factor": _two_factor(page) if is_admin else set(),
        "is_admin": is_admin,
        "is_owner": has_role(place, Role.OWNER),
        "invitations": invitations.pending(place.organization) if is_admin else [],
        "roles": members.may_give(place),
        "form": InviteForm(roles=members.may_give(place)),
        "sends_mail": settings.EMAIL_IS_CONFIGURED,
        "now": timezone.now(),
    }
    return pages.render(request, "accounts/members.html", context, status=status)


def _two_factor(page: "Page[Membership]") -> set[int]:
    """Return who of a page has a second factor (recovery codes alone are none)."""
    users = [each.user_id for each in page.object_list]
    found = Authenticator.objects.filter(user_id__in=users).exclude(type=Authenticator.Type.RECOVERY_CODES)
    return set(found.values_list("user_id", flat=True))


def _refused(request: MemberRequest, error: Error) -> HttpResponse:
    """Say on the Members page why nothing was changed."""
    # The role that was read when the request began may be the one that was just taken away.
    current = Membership.objects.filter(pk=request.membership.pk).select_related("organization").first()
    if current is None:
        raise PermissionDenied(error.message)
    request.membership = current
    messages.error(request, error.message)
    return _page(request, status=error.status)


def _saying_refusals(view: _MemberView[_P]) -> _MemberView[_P]:
    """Let a refusal of the domain be said on the Members page."""

    @wraps(view)
    def saying(request: MemberRequest, *args: _P.args, **kwargs: _P.kwargs) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except Error as error:
            return _refused(request, error)

    return cast(_MemberView[_P], saying)


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.ADMIN)
@_saying_refusals
def invite(request: MemberRequest) -> HttpResponse:
    """Ask whom to invite; then show the link, in the answer itself: a redirect would have to keep it somewhere."""
    roles = members.may_give(request.membership)
    form = InviteForm(request.POST if request.method == "POST" else None, roles=roles)
    if not form.is_valid():
        status = HTTPStatus.BAD_REQUEST if form.is_bound else HTTPStatus.OK
        context = {"form": form, "sends_mail": settings.EMAIL_IS_CONFIGURED}
        return pages.render(request, "accounts/invitation_new.html", context, status=status)
    offer = invitations.invite(
        organization=request.membership.organization,
        role=Role(form.cleaned_data["role"]),
        email=form.cleaned_data["email"],
        actor=request.user,
        now=timezone.now(),
        request_id=form.cleaned_data["request_id"],
        address=audit.client_address(request),
    )
    return _show(request, offer)


def _show(request: MemberRequest, offer: invitations.Offer) -> HttpResponse:
    inviter = request.user.name or request.user.email
    context = {
        "offer": offer,
        "is_sent": emails.send_invitation(offer, inviter=inviter),
        "sends_mail": settings.EMAIL_IS_CONFIGURED,
        "now": timezone.now(),
    }
    return pages.render(request, "accounts/invitation_created.html", context)


@require_POST
@require_role(Role.ADMIN)
@_saying_refusals
def renew_invitation(request: MemberRequest, public_id: str) -> HttpResponse:
    """Make a new link for an open invitation and show it."""
    _get_invitation(request, public_id)
    offer = invitations.renew(
        organization=request.membership.organization,
        public_id=public_id,
        actor=request.user,
        now=timezone.now(),
        address=audit.client_address(request),
    )
    return _show(request, offer)


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.ADMIN)
@_saying_refusals
def revoke_invitation(request: MemberRequest, public_id: str) -> HttpResponse:
    """Ask, then take an invitation back."""
    invitation = _get_invitation(request, public_id)
    if request.method != "POST":
        return pages.render(request, "accounts/invitation_revoke.html", {"invitation": invitation})
    invitations.revoke(
        organization=request.membership.organization,
        public_id=public_id,
        actor=request.user,
        now=timezone.now(),
        address=audit.client_address(request),
    )
    messages.success(request, "The invitation is taken back. Its link no longer works.")
    return redirect("members")


def _get_invitation(request: MemberRequest, public_id: str) -> Invitation:
    return get_object_or_404(Invitation, organization=request.membership.organization, public_id=public_id)


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.MEMBER)
@_saying_refusals
def member(request: MemberRequest, member_id: int) -> HttpResponse:
    """Show a member's role and change it; members may look at themselves only."""
    place, other = request.membership, _get_member(request, member_id)
    if other.pk != place.pk and not members.may_manage(place, other):
        raise PermissionDenied("Your role does not allow changing this member. Ask an owner.")
    roles = members.may_give(place)
    form = RoleForm(request.POST if request.method == "POST" else None, roles=roles, initial={"role": other.role})
    if request.method != "POST" or not form.is_valid():
        context = {"member": other, "form": form, "is_self": other.pk == place.pk, "may_change": bool(roles)}
        status = HTTPStatus.BAD_REQUEST if form.is_bound else HTTPStatus.OK
        return pages.render(request, "accounts/member.html", context, status=status)
    changed = members.change_role(
        organization=place.organization,
        member_id=other.pk,
        role=Role(form.cleaned_data["role"]),
        actor=request.user,
        address=audit.client_address(request),
    )
    messages.success(request, f"{_name(changed)} is {_a(Role(changed.role))} now.")
    return redirect("members")


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.MEMBER)
@_saying_refusals
def remove_member(request: MemberRequest, member_id: int) -> HttpResponse:
    """Ask which of their keys end too, then take a member out."""
    other = _get_member(request, member_id)
    if other.pk == request.membership.pk:
        return redirect("members-leave")
    if not members.may_manage(request.membership, other):
        raise PermissionDenied("Your role does not allow removing this member. Ask an owner.")
    keys = members.keys_created_by(other.user, other.organization)
    form = DepartureForm(request.POST if request.method == "POST" else None, keys=keys)
    if request.method != "POST" or not form.is_valid():
        context = {"member": other, "form": form, "keys": keys}
        status = HTTPStatus.BAD_REQUEST if form.is_bound else HTTPStatus.OK
        return pages.render(request, "accounts/member_remove.html", context, status=status)
    removed = members.remove(
        organization=other.organization,
        member_id=other.pk,
        actor=request.user,
        now=timezone.now(),
        revoke=form.cleaned_data["keys"],
        address=audit.client_address(request),
    )
    messages.success(request, f"{_name(other)} is no member any more.{_with_keys(removed)}")
    return redirect("members")


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.MEMBER)
@_saying_refusals
def leave(request: MemberRequest) -> HttpResponse:
    """Ask, then let the reader go."""
    place = request.membership
    keys = members.keys_created_by(request.user, place.organization)
    form = DepartureForm(request.POST if request.method == "POST" else None, keys=keys)
    if request.method != "POST" or not form.is_valid():
        is_last_owner = any(owned.pk == place.organization_id for owned in members.owned_alone(request.user))
        context = {"form": form, "keys": keys, "is_last_owner": is_last_owner}
        status = HTTPStatus.BAD_REQUEST if form.is_bound else HTTPStatus.OK
        return pages.render(request, "accounts/member_leave.html", context, status=status)
    left = members.leave(
        organization=place.organization,
        user=request.user,
        now=timezone.now(),
        revoke=form.cleaned_data["keys"],
        address=audit.client_address(request),
    )
    messages.success(request, f"You left {place.organization.name}.{_with_keys(left)}")
    return redirect("home")


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.OWNER)
@_saying_refusals
def transfer(request: MemberRequest) -> HttpResponse:
    """Ask for the new owner and the organization's name, then hand over."""
    place = request.membership
    others = Membership.objects.filter(organization=place.organization).exclude(pk=place.pk)
    listed = list(others.select_related("user").order_by(_RANK, "user__email")[:_MOST_LISTED])
    posted = request.POST if request.method == "POST" else None
    form = TransferForm(posted, organization=place.organization, others=listed)
    if not form.is_valid():
        status = HTTPStatus.BAD_REQUEST if form.is_bound else HTTPStatus.OK
        context = {"form": form, "has_others": bool(listed)}
        return pages.render(request, "accounts/member_transfer.html", context, status=status)
    successor = members.transfer(
        organization=place.organization,
        to_id=form.cleaned_data["to"],
        actor=request.user,
        address=audit.client_address(request),
    )
    messages.success(request, f"{_name(successor)} is the owner now. You are an admin.")
    return redirect("members")


def _get_member(request: MemberRequest, member_id: int) -> Membership:
    found = Membership.objects.filter(organization=request.membership.organization, pk=member_id)
    other = found.select_related("user", "organization").first()
    if other is None:
        raise Http404
    return other


def _name(place: Membership) -> str:
    return place.user.name or place.user.email


def _a(role: Role) -> str:
    return f"a {role.value}" if role == Role.MEMBER else f"an {role.value}"


def _with_keys(removed: members.Removed) -> str:
    if not removed.revoked_keys:
        return ""
    return f" {removed.revoked_keys} API key{'s are' if removed.revoked_keys > 1 else ' is'} revoked."
