"""`manage.py api_reference`: write docs/api/reference.md from the OpenAPI document; `--check` only compares."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from respan import reference, schema

FILE = settings.BASE_DIR / "docs" / "api" / "reference.md"


class Command(BaseCommand):
    help = "Write docs/api/reference.md from the OpenAPI document."
    requires_system_checks: list[str] = []  # noqa: RUF012  (Django's declaration)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true", help="fail where the file says something else")

    def handle(self, *args: Any, **options: Any) -> None:
        written = reference.page(schema.document())
        if not options["check"]:
            FILE.write_text(written, encoding="utf-8")
        elif FILE.read_text(encoding="utf-8") != written:
            raise CommandError("docs/api/reference.md is not what the API is: run `manage.py api_reference`.")
