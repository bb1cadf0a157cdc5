"""The Credits page: balance, entries, redeeming a code. Every query starts at the reader's organization.

Neighbours: `statement.py`, `codes.py`, `ledger.balance`.
"""

from http import HTTPStatus

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST, require_safe

from accounts import audit
from accounts.models import Role
from accounts.tenancy import MemberRequest, has_role, require_role
from billing import codes, ledger, statement
from billing.forms import RedeemForm
from billing.usage import usd
from respan.errors import Error
from respan.pages import render


@require_safe
@require_role(Role.MEMBER)
def credits_page(request: MemberRequest) -> HttpResponse:
    """Show the balance and the entries."""
    return _page(request, RedeemForm())


@require_POST
@require_role(Role.ADMIN)
def redeem(request: MemberRequest) -> HttpResponse:
    """Add a code's credits, then show the page again."""
    form = RedeemForm(request.POST)
    if not form.is_valid():
        return _page(request, form, status=HTTPStatus.BAD_REQUEST)
    try:
        redeemed = codes.redeem(
            organization=request.membership.organization,
            text=form.cleaned_data["code"],
            user=request.user,
            address=audit.client_address(request),
        )
    except Error as error:
        form.add_error("code", error.message)
        return _page(request, form, status=error.status)
    amount = usd(redeemed.redemption.entry.amount)
    if redeemed.is_new:
        messages.success(request, f"{amount} of credits added.")
    else:
        messages.info(request, f"Your organization has redeemed this code already: its {amount} were added then.")
    return redirect("credits")


def _page(request: MemberRequest, form: RedeemForm, *, status: int = HTTPStatus.OK) -> HttpResponse:
    organization = request.membership.organization
    context = {
        "balance": ledger.balance(organization.pk),
        "open_holds": statement.open_holds(organization.pk),
        "page": statement.entries(organization_id=organization.pk, cursor=request.GET.get("before", "")),
        "may_redeem": has_role(request.membership, Role.ADMIN),
        "form": form,
    }
    return render(request, "billing/credits.html", context, status=status)
