"""Starts billing: a new organization gets its wallet. A deleted one keeps it, with entries and balance, for the books.

Neighbours: `accounts.signup` (the signal), `accounts.audit` (what our actions are called), `ledger.py`.
"""

from typing import Any, Final

from django.apps import AppConfig

_ACTIONS: Final = {
    "credits.purchase": "Bought credits",
    "credits.grant": "Added credits",
    "credits.adjustment": "Adjusted the balance (operator)",
    "credits.refund": "Refunded a charge (operator)",
    "credits.expiry": "Let credits expire",
    "adjustment.proposed": "Proposed an adjustment (operator)",
    "adjustment.approved": "Approved an adjustment (operator)",
    "adjustment.rejected": "Rejected an adjustment (operator)",
    "redeem_code.created": "Made a redeem code (operator)",
    "redeem_code.disabled": "Disabled a redeem code (operator)",
}


class BillingConfig(AppConfig):
    name = "billing"

    def ready(self) -> None:
        from accounts import audit
        from accounts.signup import organization_created

        audit.add_actions(_ACTIONS)
        organization_created.connect(_open_wallet, dispatch_uid="billing.wallet")


def _open_wallet(sender: Any, organization: Any, **_: Any) -> None:
    """Give a new organization its wallet, inside the transaction that creates it."""
    from billing import ledger

    ledger.ensure_wallet(organization)
