"""The other side of an invitation: its link, and the page where somebody takes it up.

The link's token is turned into its digest at once and the browser sent on to a page whose address holds no secret: no
history, log or `next` keeps one. Joining is a press of a button, never a visit. Neighbours: `invitations.py`,
`forms.SignupForm` (signing up on the way).
"""

from http import HTTPStatus

from django.contrib import messages
from django.contrib.auth import logout
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import audit, invitations, tenancy
from respan import pages
from respan.errors import Error


@require_safe
def open_link(request: HttpRequest, token: str) -> HttpResponse:
    """Remember whose invitation this is and show it under an address without the token."""
    digest = invitations.digest_of(token)
    if invitations.find(digest) is None:
        return _unknown(request)
    invitations.remember(request, digest)
    return redirect("invitation")


@require_http_methods(["GET", "HEAD", "POST"])
def invitation(request: HttpRequest) -> HttpResponse:
    """Say who invites to what, or why that is over; a POST joins."""
    found = invitations.remembered(request)
    if found is None:
        return _unknown(request)
    user = request.user if request.user.is_authenticated else None
    problem = invitations.problem_of(found, user, now=timezone.now())
    if request.method == "POST" and user is not None and problem is None:
        try:
            place = invitations.accept(
                invitation=found, user=user, now=timezone.now(), address=audit.client_address(request)
            )
        except Error as error:
            problem = error
        else:
            invitations.forget(request)
            tenancy.switch(request, found.organization)
            messages.success(request, f"You joined {found.organization.name} as {place.role}.")
            return redirect("home")
    if isinstance(problem, invitations.AlreadyMember):
        tenancy.switch(request, found.organization)
    context = {
        "invitation": found,
        "problem": problem,
        "is_member": isinstance(problem, invitations.AlreadyMember),
        "is_for_somebody_else": isinstance(problem, invitations.InvitationForSomebodyElse),
        "back": urlencode({"next": reverse("invitation")}),
        "now": timezone.now(),
    }
    # Who is a member already has nothing to repair.
    status = problem.status if problem and not context["is_member"] else HTTPStatus.OK
    return pages.render(request, "accounts/invitation.html", context, status=status)


@require_POST
def use_another_account(request: HttpRequest) -> HttpResponse:
    """Sign the reader out, keep the invitation, and go to the sign-in page."""
    found = invitations.remembered(request)
    logout(request)
    if found is not None:
        invitations.remember(request, bytes(found.digest))
    return redirect(f"{reverse('account_login')}?{urlencode({'next': reverse('invitation')})}")


def _unknown(request: HttpRequest) -> HttpResponse:
    return pages.render(request, "accounts/invitation_unknown.html", {}, status=HTTPStatus.NOT_FOUND)
