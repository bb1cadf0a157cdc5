"""The periodic jobs of money, run by the worker at beat's word. Each makes one call into the ledger."""

from celery import shared_task

from billing import ledger


@shared_task(name="billing.reap_holds")
def reap_holds() -> None:
    """Expire the open holds of hosts that are lost."""
    ledger.reap()


@shared_task(name="billing.expire_grants")
def expire_grants() -> None:
    """Take back what is left of expired grants."""
    ledger.expire()
