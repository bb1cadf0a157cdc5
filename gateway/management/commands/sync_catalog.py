"""`manage.py sync_catalog`: read the catalogue files and publish their prices; `--check` only reads them."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing import prices
from gateway.providers import Catalog, CatalogError, catalog


class Command(BaseCommand):
    """Publishes a new version of every price that changed; calls under way keep the version they began with."""

    help = "Read the catalogue files and publish their prices (a new version of those that changed)."
    requires_system_checks: list[str] = []  # noqa: RUF012  (as Django declares it)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true", help="only check the files; needs no database")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            read = catalog()
        except CatalogError as error:
            raise CommandError(str(error)) from None
        count = sum(1 for _ in read.models())
        summary = f"{len(read.providers)} providers, {count} models"
        if options["check"]:
            self.stdout.write(f"The catalogue is in order: {summary}.")
            return
        published = prices.publish(rows(read))
        self.stdout.write(f"Catalogue: {summary}; {published} prices are new or changed.")


def rows(read: Catalog) -> list[prices.Price]:
    """Return every price of the catalogue, those of long inputs under a name of their own."""
    found = []
    for model in read.models():
        if model.rates is not None:
            found.append(prices.Price(model.provider, model.id, model.rates))
        if model.long_rates is not None:
            found.append(prices.Price(model.provider, model.long_price_id, model.long_rates))
    return found
