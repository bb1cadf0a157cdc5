"""The Audit log page: what was done in the organization, by whom and from where; filters in the URL, CSV.

Neighbours: `history.py` (reads), `people_forms.AuditFilterForm`.
"""

from urllib.parse import urlencode

from django.http import HttpResponse
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts import audit, history
from accounts.models import Membership, Role
from accounts.people_forms import AuditFilterForm
from accounts.tenancy import MemberRequest, require_role
from respan import pages

# Suggested while typing; anybody else can be typed in full.
_MOST_SUGGESTED = 200


@require_safe
@require_role(Role.ADMIN)
def audit_log(request: MemberRequest) -> HttpResponse:
    """List the events, newest first."""
    organization = request.membership.organization
    form = AuditFilterForm(request.GET)
    filters = form.filters()
    page = history.page(organization=organization, filters=filters, cursor=request.GET.get("before", ""))
    asked = {name: value for name in form.fields if (value := request.GET.get(name, "").strip())}
    places = Membership.objects.filter(organization=organization).order_by("user__email")
    context = {
        "form": form,
        "page": page,
        "is_filtered": bool(asked),
        "is_later_page": "before" in request.GET,
        "has_events": bool(page.rows) or history.has_events(organization),
        "newest": f"?{urlencode(asked)}",
        "older": f"?{urlencode({**asked, 'before': page.older})}" if page.older else None,
        "export": urlencode(asked),
        "people": places.values_list("user__email", flat=True)[:_MOST_SUGGESTED],
        "most_exported": history.MOST_EXPORTED,
        "now": timezone.now(),
    }
    return pages.render(request, "accounts/audit_log.html", context)


@require_safe
@require_role(Role.ADMIN)
def export_audit_log(request: MemberRequest) -> HttpResponse:
    """Send the events that the same filters show as CSV; that this was done is an event too."""
    organization = request.membership.organization
    filters = AuditFilterForm(request.GET).filters()
    answer = HttpResponse(
        history.lines(organization=organization, filters=filters), content_type="text/csv; charset=utf-8"
    )
    answer["Content-Disposition"] = f'attachment; filename="audit-log-{timezone.now():%Y-%m-%d}.csv"'
    answer["Cache-Control"] = "private, no-store"
    audit.record(
        organization=organization,
        actor=request.user,
        action="audit_log.exported",
        target=organization.public_id,
        address=audit.client_address(request),
    )
    return answer
