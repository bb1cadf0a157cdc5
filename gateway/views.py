"""The Integrations pages: an organization's provider keys.

Owners and admins add, change, test and remove them; members see which there are. Each view translates the request,
makes one domain call and answers with a page, a part of it for htmx, or a redirect; every query starts at the reader's
organization, so a foreign id is a 404. Never shows a key. Neighbours: `credentials.py`, `probe.py`, `forms.py`,
`cards.py`.
"""

from http import HTTPStatus
from typing import Any, Final

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import audit
from accounts.models import Membership, Organization, Role
from accounts.tenancy import MemberRequest, has_role, require_role
from gateway import breaker_sharing, cards, credentials
from gateway.forms import CredentialForm, NewCredentialForm, ProbeForm
from gateway.models import Credential
from gateway.probe import probe
from gateway.providers import Provider, catalog
from gateway.routing import CUSTOM
from respan import ids, outbound, pages
from respan.errors import Error

# How many of those who may manage keys a member is told.
_MOST_NAMED: Final = 5


def policy(organization: Organization | None) -> outbound.Policy:
    """Return where an organization's keys may lead: only the demo may call servers on this machine."""
    return outbound.Policy(loopback=organization is not None and organization.is_demo)


@sensitive_post_parameters("secret")
@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.MEMBER)
def integrations(request: MemberRequest) -> HttpResponse:
    """List providers and the organization's keys and, for its admins, add one."""
    if request.method != "POST":
        return _list(request)
    if not has_role(request.membership, Role.ADMIN):
        return _list(request, status=HTTPStatus.FORBIDDEN)
    form = NewCredentialForm(request.POST, about=_find_provider(request.POST.get("provider", "")))
    if not form.is_valid():
        return _add_page(request, form, status=HTTPStatus.BAD_REQUEST)
    try:
        credential = credentials.store(
            organization=request.membership.organization,
            **form.cleaned_data,
            actor=request.user,
            address=audit.client_address(request),
        )
    except Error as error:
        _put(form, error)
        return _add_page(request, form, status=HTTPStatus.BAD_REQUEST)
    messages.success(request, f"“{credential.name}” is stored. Test it to be sure that the provider accepts it.")
    return _go_on(request, f"{reverse('integrations')}?new={credential.public_id}#{credential.public_id}")


@require_safe
@require_role(Role.ADMIN)
def add_integration(request: MemberRequest) -> HttpResponse:
    """Show the form that adds a key, for the provider the address names or for any."""
    about = _find_provider(request.GET.get("provider", ""))
    name = ""
    if about is not None and about.id != CUSTOM:
        taken = Credential.objects.filter(organization=request.membership.organization, provider=about.id)
        name = "" if taken.filter(name="Main").exists() else "Main"
    initial = {"provider": about.id if about else "", "name": name, "weight": 1}
    return _add_page(request, NewCredentialForm(initial=initial, about=about))


@sensitive_post_parameters("secret")
@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.ADMIN)
def integration(request: MemberRequest, public_id: str) -> HttpResponse:
    """Replace a key, or change its server or its models."""
    credential = _get(request, public_id)
    about = catalog().providers.get(credential.provider)
    if request.method != "POST":
        shown = {
            "base_url": credential.base_url,
            "models": "\n".join(credential.allowed_models),
            "weight": credential.weight,
        }
        return _change_page(request, credential, CredentialForm(initial=shown, about=about))
    form = CredentialForm(request.POST, about=about)
    if not form.is_valid():
        return _change_page(request, credential, form, status=HTTPStatus.BAD_REQUEST)
    try:
        credentials.change(
            credential=credential,
            secret=form.cleaned_data["secret"] or None,
            base_url=form.cleaned_data["base_url"],
            models=form.cleaned_data["models"],
            weight=form.cleaned_data["weight"],
            actor=request.user,
            address=audit.client_address(request),
        )
    except Error as error:
        _put(form, error)
        return _change_page(request, credential, form, status=HTTPStatus.BAD_REQUEST)
    messages.success(request, f"“{credential.name}” is changed.")
    return _go_on(request, reverse("integrations"))


@require_POST
@require_role(Role.ADMIN)
def test_integration(request: MemberRequest, public_id: str) -> HttpResponse:
    """Make a tiny real call with a key and tell what came of it: in its place for htmx, else above the list."""
    credential = _get(request, public_id)
    form = ProbeForm(request.POST)
    if not form.is_valid():
        return _told(request, credential, passed=False, said="The name of a model has at most 200 characters.")
    outcome = probe(
        credentials.of(credential),
        policy=policy(request.membership.organization),
        model=form.cleaned_data["model"],
    )
    credentials.note_test(
        credential=credential,
        passed=outcome.passed,
        latency_ms=outcome.latency_ms,
        note=outcome.note,
        actor=request.user,
        address=audit.client_address(request),
        now=timezone.now(),
    )
    credential.refresh_from_db()
    if outcome.passed:
        said = f"“{credential.name}” works: {outcome.model} answered in {outcome.latency_ms} ms."
    else:
        said = f"“{credential.name}”: {outcome.note}"
    return _told(request, credential, passed=outcome.passed, said=said, model=outcome.model)


def _told(request: MemberRequest, credential: Credential, *, passed: bool, said: str, model: str = "") -> HttpResponse:
    if pages.wants_fragment(request):
        line = cards.line(credential, catalog().providers.get(credential.provider))
        context = {"line": line, "may_manage": True, "said": said, "passed": passed, "tested_model": model}
        return pages.render(request, "gateway/key.html", context)
    (messages.success if passed else messages.error)(request, said)
    return redirect("integrations")


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.ADMIN)
def remove_integration(request: MemberRequest, public_id: str) -> HttpResponse:
    """Ask, then remove a key."""
    credential = _get(request, public_id)
    if request.method != "POST":
        line = cards.line(credential, catalog().providers.get(credential.provider))
        return pages.render(request, "gateway/integration_remove.html", {"credential": credential, "line": line})
    credentials.remove(credential=credential, actor=request.user, address=audit.client_address(request))
    messages.success(request, f"“{credential.name}” is removed. Calls stop using it within 5 seconds.")
    return _go_on(request, reverse("integrations"))


def _get(request: MemberRequest, public_id: str) -> Credential:
    if ids.decode("cred", public_id) is None:
        raise Http404
    return get_object_or_404(
        Credential.objects.select_related("organization"),
        organization=request.membership.organization,
        public_id=public_id,
    )


def _find_provider(provider_id: str) -> Provider | None:
    """Return a provider that takes a key, if this is the id of one."""
    provider = catalog().providers.get(provider_id)
    return provider if provider and "api_key" in provider.credential_fields else None


def _go_on(request: MemberRequest, address: str) -> HttpResponse:
    """Lead the reader to another page; when htmx sent the form, the whole page goes there."""
    if not pages.wants_fragment(request):
        return redirect(address)
    answer = HttpResponse(status=HTTPStatus.NO_CONTENT)
    answer["HX-Redirect"] = address
    return answer


def _put(form: CredentialForm, error: Error) -> None:
    """Show a refusal beside the field it is about; a forbidden address is about the base URL."""
    field = error.param or ("base_url" if isinstance(error, outbound.ForbiddenAddress) else None)
    form.add_error(field if field in form.fields else None, error.message)


def _list(request: MemberRequest, *, status: int = HTTPStatus.OK) -> HttpResponse:
    organization = request.membership.organization
    stored = Credential.objects.filter(organization=organization).select_related("created_by")
    breaker_sharing.refresh_now()
    everything = cards.cards(catalog(), stored=stored, offered=credentials.offered())
    text = request.GET.get("q", "").replace("\x00", "").strip()[:100]
    may_manage = has_role(request.membership, Role.ADMIN)
    shown = cards.matching(everything, text)
    is_all = bool(text) or request.GET.get("all") == "1"
    context = {
        "connected": sorted((card for card in everything if card.lines), key=lambda card: card.name.casefold()),
        "offered": [card for card in everything if card.offered_count],
        "shown": shown if is_all else shown[: cards.FIRST],
        "count": len(everything),
        "is_all": is_all,
        "text": text,
        "may_manage": may_manage,
        "managers": [] if may_manage else _managers(organization),
        "new": request.GET.get("new", ""),
    }
    return pages.render(request, "gateway/integrations.html", context, status=status)


def _managers(organization: Organization) -> list[str]:
    """Return whom a member can ask: addresses of owners and admins."""
    rows = Membership.objects.filter(organization=organization, role__in=[Role.OWNER, Role.ADMIN], user__is_active=True)
    return list(rows.order_by("created_at").values_list("user__email", flat=True)[:_MOST_NAMED])


def _add_page(request: MemberRequest, form: NewCredentialForm, *, status: int = HTTPStatus.OK) -> HttpResponse:
    context: dict[str, Any] = {"form": form, "about": form.about, "is_custom": False, "key_url": ""}
    if form.about is not None:
        context |= {"is_custom": form.about.id == CUSTOM, "key_url": cards.key_url(form.about)}
    return pages.render(request, "gateway/integration_add.html", context, status=status)


def _change_page(
    request: MemberRequest, credential: Credential, form: CredentialForm, *, status: int = HTTPStatus.OK
) -> HttpResponse:
    line = cards.line(credential, form.about)
    context = {"credential": credential, "line": line, "form": form, "about": form.about, "is_custom": line.is_custom}
    return pages.render(request, "gateway/integration.html", context, status=status)
