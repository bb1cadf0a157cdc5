"""`manage.py sync_catalog`: read the catalogue files and publish their prices; `--check` only reads them."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing import prices
from gateway import added_models
from gateway.providers import catalog
from gateway.tables import CatalogError


class Command(BaseCommand):
    """Publishes a new version of every price that changed; calls under way keep the version they began with."""

    help = "Read the catalogue files and publish their prices (a new version of those that changed)."
    requires_system_checks: list[str] = []  # noqa: RUF012  (as Django declares it)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true", help="only check the files; needs no database")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            read = catalog.listed()
        except CatalogError as error:
            raise CommandError(str(error)) from None
        count = sum(1 for _ in read.models())
        summary = f"{len(read.providers)} providers, {count} models"
        if options["check"]:
            self.stdout.write(f"The catalogue is in order: {summary}.")
            return
        published = prices.publish(added_models.price_list(added_models.everything().models()))
        self.stdout.write(f"Catalogue: {summary}; {published} prices are new or changed.")
