"""Which organization a page belongs to and what its reader may do there.

`OrganizationMiddleware` puts the current membership on every request with a session; `require_role` guards views. Every
query of a page starts at `request.membership.organization`, so a foreign id is a 404. Never decides for API calls:
their organization comes with the key. Neighbours: `models.Membership`, every app's `views.py`.
"""

from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from typing import Concatenate, ParamSpec, cast
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse

from accounts.before import BeforeView
from accounts.models import Environment, Membership, Organization, Role, User
from respan import pages

SESSION_KEY = "organization"
ENVIRONMENT_KEY = "environment"

_RANKS = {Role.MEMBER: 0, Role.ADMIN: 1, Role.OWNER: 2}
_Parameters = ParamSpec("_Parameters")
_MemberView = Callable[Concatenate["MemberRequest", _Parameters], HttpResponse]
_View = Callable[Concatenate[HttpRequest, _Parameters], HttpResponse]


class MemberRequest(HttpRequest):
    """A request behind `require_role`: somebody signed in, in an organization."""

    user: User
    membership: Membership
    # What the environment switch is at: "production", "test" or "" for all.
    environment: str


def find_membership(user: User, organization_public_id: str | None = None) -> Membership | None:
    """Return the user's place in the organization asked for, else in the first one; None without any."""
    memberships = Membership.objects.filter(user=user, organization__deleted_at=None)
    memberships = memberships.select_related("organization").order_by("created_at", "id")
    if organization_public_id:
        chosen = memberships.filter(organization__public_id=organization_public_id).first()
        if chosen is not None:
            return chosen
    return memberships.first()


def switch(request: HttpRequest, organization: Organization) -> None:
    """Make an organization the current one of this session; the caller has checked the membership."""
    request.session[SESSION_KEY] = organization.public_id


def look_at(request: HttpRequest, environment: str) -> None:
    """Make an environment the one whose records pages show in this session; "" shows all."""
    request.session[ENVIRONMENT_KEY] = environment if environment in Environment.values else ""


def has_role(membership: Membership | None, minimum: Role) -> bool:
    """Tell whether a membership carries at least this role."""
    return membership is not None and _RANKS[Role(membership.role)] >= _RANKS[minimum]


def require_role(minimum: Role) -> Callable[[_MemberView[_Parameters]], _View[_Parameters]]:
    """Let only members with at least this role reach a view.

    Anonymous readers go to the sign-in page, people without an organization to a page that offers one; a role too low
    is a 403.
    """

    def guard(view: _MemberView[_Parameters]) -> _View[_Parameters]:
        @wraps(view)
        def guarded(request: HttpRequest, *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> HttpResponse:
            if not request.user.is_authenticated:
                return _sign_in(request)
            membership: Membership | None = getattr(request, "membership", None)
            if membership is None:
                return _no_organization(request, request.user)
            if not has_role(membership, minimum):
                raise PermissionDenied
            return view(cast(MemberRequest, request), *args, **kwargs)

        guarded.required_role = minimum  # type: ignore[attr-defined]  # read by the test that walks the URLs
        return cast(_View[_Parameters], guarded)

    return guard


def _sign_in(request: HttpRequest) -> HttpResponse:
    """Send an anonymous reader to the sign-in page; when htmx asked for a piece, the whole page goes there."""
    if not pages.wants_fragment(request):
        return redirect_to_login(request.get_full_path())
    shown = urlsplit(request.headers.get("HX-Current-URL", ""))
    answer = HttpResponse(status=HTTPStatus.NO_CONTENT)
    answer["HX-Redirect"] = redirect_to_login(f"{shown.path or '/'}{'?' + shown.query if shown.query else ''}").url
    return answer


def _no_organization(request: HttpRequest, user: User) -> HttpResponse:
    """Say that somebody belongs nowhere; when htmx asked for a piece, the whole page is loaded again to say it."""
    if not pages.wants_fragment(request):
        context = {"may_create": may_create_organization(user)}
        return pages.render(request, "accounts/no_organization.html", context, status=HTTPStatus.FORBIDDEN)
    answer = HttpResponse(status=HTTPStatus.FORBIDDEN)
    answer["HX-Refresh"] = "true"
    return answer


def may_create_organization(user: User) -> bool:
    """Tell whether a user may create an organization: only who has none, so that sign-up grants cannot be farmed."""
    has_one = user.memberships.filter(organization__deleted_at=None).exists()
    return (settings.RESPAN_SIGNUP_OPEN or user.is_superuser) and not has_one


class OrganizationMiddleware(BeforeView):
    """Set `request.membership`: the current one of a signed-in reader, else None; and the environment looked at."""

    def with_session(self, request: HttpRequest) -> None:
        membership, environment = None, ""
        if request.user.is_authenticated:
            membership = find_membership(request.user, request.session.get(SESSION_KEY))
            environment = request.session.get(ENVIRONMENT_KEY, "")
        _look(request, membership, environment)

    def without_session(self, request: HttpRequest) -> None:
        _look(request, None, "")


def _look(request: HttpRequest, membership: Membership | None, environment: str) -> None:
    request.membership = membership  # type: ignore[attr-defined]
    request.environment = environment  # type: ignore[attr-defined]
