"""`manage.py build_catalog --litellm FILE [--genai-prices]`: write `catalog/<provider>.json` from published data.

For whoever maintains the catalogue, not for operators: it needs litellm's model file (in its wheel) and, to compare
prices, genai-prices (in the tests' requirements). Writes nothing when a file would not load. Neighbours:
`catalog_sources.py` (corrections by hand), `catalog_build.py`, `catalog_prices.py`.
"""

from datetime import date
from pathlib import Path
from shutil import copy
from tempfile import TemporaryDirectory
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from gateway import catalog_build, catalog_prices, catalog_sources
from gateway.catalog_build import Entry, Row
from gateway.catalog_sources import Source
from gateway.providers import FOLDER, load
from gateway.tables import CatalogError


class Command(BaseCommand):
    """Generates the catalogue's models; the provider files and the corrections written by hand stay as they are."""

    help = "Generate the catalogue's models from litellm's published model file."
    requires_system_checks: list[str] = []  # noqa: RUF012  (as Django declares it)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--litellm", type=Path, required=True, help="litellm's model file (in its wheel)")
        parser.add_argument("--litellm-version", default="", help="named in the files, for example 1.109.1")
        parser.add_argument("--genai-prices", action="store_true", help="compare prices with genai-prices")
        parser.add_argument("--day", type=date.fromisoformat, default=None, help="today's date, when it is not today")

    def handle(self, *args: Any, **options: Any) -> None:
        day = options["day"] or date.today()  # noqa: DTZ011  (a day is all that retirement dates have)
        try:
            sources = catalog_sources.read()
            entries = catalog_build.read(options["litellm"])
        except (CatalogError, OSError, ValueError) as error:
            raise CommandError(str(error)) from None
        says = f"litellm {options['litellm_version']}".strip()
        texts = {}
        for source in sources:
            rows, origin, differences = _rows(source, entries, says, compares=options["genai_prices"], day=day)
            texts[f"{source.provider}.json"] = catalog_build.text(rows, source=origin)
            for line in differences:
                self.stdout.write(f"{source.provider}: {line}")
        self.stdout.write(_checked(texts))
        for name, text in texts.items():
            (FOLDER / name).write_text(text, "utf-8")


def _rows(
    source: Source, entries: dict[str, Entry], says: str, *, compares: bool, day: date
) -> tuple[list[Row], str, list[str]]:
    """Return a provider's models, where they come from, and where the sources differ."""
    if not source.litellm:
        return catalog_prices.listed(source, entries, day=day), f"genai-prices {catalog_prices.version()}, {says}", []
    rows = catalog_build.rows(entries, source, today=day)
    if not (compares and source.genai_prices):
        return rows, says, []
    rows, differences = catalog_prices.compared(rows, source, day=day)
    return rows, f"{says}, compared with genai-prices {catalog_prices.version()}", differences


def _checked(texts: dict[str, str]) -> str:
    """Load the catalogue as it would be, and say what it holds. Raises: CommandError."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for path in FOLDER.glob("*.toml"):
            copy(path, folder)
        for file, text in texts.items():
            (folder / file).write_text(text, "utf-8")
        try:
            read = load([folder])
        except CatalogError as error:
            raise CommandError(f"Nothing was written: {error}") from None
    if homeless := [file for file in texts if file.removesuffix(".json") not in read.providers]:
        raise CommandError(f"Nothing was written: {homeless[0]} has no provider file beside it")
    models = list(read.models())
    chat = [model for model in models if model.kind == "chat"]
    priced = sum(1 for model in chat if model.rates is not None)
    return f"{len(read.providers)} providers, {len(models)} models: {len(chat)} chat models, {priced} with a price."
