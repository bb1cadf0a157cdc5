"""Starts billing: a new organization gets its wallet. Neighbours: `accounts.signup` (the signal), `ledger.py`."""

from typing import Any

from django.apps import AppConfig


class BillingConfig(AppConfig):
    name = "billing"

    def ready(self) -> None:
        from accounts.signup import organization_created

        organization_created.connect(_open_wallet, dispatch_uid="billing.wallet")


def _open_wallet(sender: Any, organization: Any, **_: Any) -> None:
    """Give a new organization its wallet, inside the transaction that creates it."""
    from billing import ledger

    ledger.ensure_wallet(organization)
