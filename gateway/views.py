"""The Integrations pages: an organization's provider keys.

Owners and admins add, change, test and remove them; members see which there are. Each view translates the request,
makes one domain call and answers with a page or a redirect; every query starts at the reader's organization, so a
foreign id is a 404. Never shows a key. Neighbours: `credentials.py`, `probe.py`, `forms.py`.
"""

from http import HTTPStatus
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils import timezone
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from accounts import audit
from accounts.models import Organization, Role
from accounts.tenancy import MemberRequest, has_role, require_role
from gateway import credentials, routing
from gateway.forms import CredentialForm, NewCredentialForm, ProbeForm
from gateway.models import Credential
from gateway.probe import probe
from gateway.providers import catalog
from respan import ids, outbound, pages
from respan.errors import Error


def policy(organization: Organization | None) -> outbound.Policy:
    """Return where an organization's keys may lead: only the demo may call servers on this machine."""
    return outbound.Policy(loopback=organization is not None and organization.is_demo)


@sensitive_post_parameters("secret")
@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.MEMBER)
def integrations(request: MemberRequest) -> HttpResponse:
    """List the organization's provider keys and, for its admins, add one."""
    if request.method != "POST":
        return _list(request, NewCredentialForm(initial={"provider": request.GET.get("provider", "")}))
    if not has_role(request.membership, Role.ADMIN):
        return _list(request, NewCredentialForm(), status=HTTPStatus.FORBIDDEN)
    form = NewCredentialForm(request.POST)
    if not form.is_valid():
        return _list(request, form, status=HTTPStatus.BAD_REQUEST)
    try:
        credential = credentials.store(
            organization=request.membership.organization,
            **form.cleaned_data,
            actor=request.user,
            address=audit.client_address(request),
        )
    except Error as error:
        _put(form, error)
        return _list(request, form, status=HTTPStatus.BAD_REQUEST)
    messages.success(request, f"“{credential.name}” is stored. Test it to be sure that the provider accepts it.")
    return redirect("integrations")


@sensitive_post_parameters("secret")
@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.ADMIN)
def integration(request: MemberRequest, public_id: str) -> HttpResponse:
    """Replace a key, or change its server or its models."""
    credential = _get(request, public_id)
    if request.method != "POST":
        shown = {"base_url": credential.base_url, "models": "\n".join(credential.allowed_models)}
        return _change_page(request, credential, CredentialForm(initial=shown))
    form = CredentialForm(request.POST)
    if not form.is_valid():
        return _change_page(request, credential, form, status=HTTPStatus.BAD_REQUEST)
    try:
        credentials.change(
            credential=credential,
            secret=form.cleaned_data["secret"] or None,
            base_url=form.cleaned_data["base_url"],
            models=form.cleaned_data["models"],
            actor=request.user,
            address=audit.client_address(request),
        )
    except Error as error:
        _put(form, error)
        return _change_page(request, credential, form, status=HTTPStatus.BAD_REQUEST)
    messages.success(request, f"“{credential.name}” is changed.")
    return redirect("integrations")


@require_POST
@require_role(Role.ADMIN)
def test_integration(request: MemberRequest, public_id: str) -> HttpResponse:
    """Make a tiny real call with a key and tell what came of it."""
    credential = _get(request, public_id)
    form = ProbeForm(request.POST)
    if not form.is_valid():
        messages.error(request, "The name of a model has at most 200 characters.")
        return redirect("integrations")
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
    if outcome.passed:
        messages.success(request, f"“{credential.name}” works: {outcome.model} answered in {outcome.latency_ms} ms.")
    else:
        messages.error(request, f"“{credential.name}”: {outcome.note}")
    return redirect("integrations")


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.ADMIN)
def remove_integration(request: MemberRequest, public_id: str) -> HttpResponse:
    """Ask, then remove a key."""
    credential = _get(request, public_id)
    if request.method != "POST":
        return pages.render(request, "gateway/integration_remove.html", _facts(credential))
    credentials.remove(credential=credential, actor=request.user, address=audit.client_address(request))
    messages.success(request, f"“{credential.name}” is removed. Calls stop using it within 5 seconds.")
    return redirect("integrations")


def _get(request: MemberRequest, public_id: str) -> Credential:
    if ids.decode("cred", public_id) is None:
        raise Http404
    return get_object_or_404(
        Credential.objects.select_related("organization"),
        organization=request.membership.organization,
        public_id=public_id,
    )


def _put(form: CredentialForm, error: Error) -> None:
    """Show a refusal beside the field it is about; a forbidden address is about the base URL."""
    field = error.param or ("base_url" if isinstance(error, outbound.ForbiddenAddress) else None)
    form.add_error(field if field in form.fields else None, error.message)


def _facts(credential: Credential) -> dict[str, Any]:
    provider = catalog().providers.get(credential.provider)
    return {
        "credential": credential,
        "provider": provider,
        "provider_name": provider.name if provider else credential.provider,
        "base_url": credentials.of(credential).effective_base_url(),
    }


def _list(request: MemberRequest, form: NewCredentialForm, *, status: int = HTTPStatus.OK) -> HttpResponse:
    stored = Credential.objects.filter(organization=request.membership.organization).select_related("created_by")
    context = {
        "rows": [_facts(credential) for credential in stored],
        "form": form,
        "may_manage": has_role(request.membership, Role.ADMIN),
        "providers": [provider for provider in catalog().providers.values() if "api_key" in provider.credential_fields],
        "custom": routing.CUSTOM,
    }
    return pages.render(request, "gateway/integrations.html", context, status=status)


def _change_page(
    request: MemberRequest, credential: Credential, form: CredentialForm, *, status: int = HTTPStatus.OK
) -> HttpResponse:
    return pages.render(request, "gateway/integration.html", {**_facts(credential), "form": form}, status=status)
