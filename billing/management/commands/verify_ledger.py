"""`manage.py verify_ledger`: prove that every wallet equals its entries and its open holds; exit 1 if one does not."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing import verification
from billing.usage import usd


class Command(BaseCommand):
    help = "Check that wallets, holds and entries agree. Lists the differences and exits with 1 if there are any."

    def handle(self, *args: Any, **options: Any) -> None:
        found = verification.differences()
        totals, accounts = verification.totals(), verification.accounts()
        for account, amount in accounts.items():
            self.stdout.write(f"{account:<12} {usd(amount):>28}")
        self.stdout.write(
            f"{totals.wallets} wallets, {totals.entries} entries, posted {usd(totals.posted)}, held {usd(totals.held)}"
            f" by {totals.open_holds} open holds ({totals.overdue_holds} past their deadline)"
        )
        if sum(accounts.values()):
            raise CommandError("The accounts do not add up to zero.")
        for difference in found:
            self.stderr.write(
                f"organization {difference.organization_id} {difference.record}: {difference.rule};"
                f" expected {difference.expected}, found {difference.found}"
            )
        if found:
            raise CommandError(f"{len(found)} differences.")
        self.stdout.write("No differences.")
