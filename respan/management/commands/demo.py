"""`manage.py demo`: prepares an organization worth looking at, and prints how to sign in to it.

Refuses on an installation that others can reach, unless told to. Neighbour: `respan/demo.py`, which does it.
"""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from respan import demo


class Command(BaseCommand):
    help = "Prepare the demo organization Northwind Labs: people, keys, credits, two weeks of calls. Safe to repeat."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--force", action="store_true", help="also on an installation that others can reach")

    def handle(self, *args: Any, force: bool, **options: Any) -> None:
        if not settings.RESPAN_IS_LOOPBACK and not force:
            raise CommandError(
                f"{settings.RESPAN_BASE_URL} can be reached by others, and a demo organization adds people who may "
                "sign in. Say --force if you mean it."
            )
        passwords = demo.prepare(now=timezone.now())
        self.stdout.write(f"Sign in at {settings.RESPAN_BASE_URL}/accounts/login/ as one of\n")
        for email, password in passwords.items():
            self.stdout.write(f"  {email:32} {password}")
        self.stdout.write(f"\n(kept in {demo.logins_file()})")
