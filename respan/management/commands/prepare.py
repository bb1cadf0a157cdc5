"""`manage.py prepare`: what a start needs once: tables, catalogue, and the first operator's set-up link.

For installations whose processes are started by something else than `manage.py up` (systemd, containers). Safe to
repeat, also by several hosts at once. Neighbours: `up.py` (does the same at each start), `respan/firstrun.py`.
"""

from typing import Any

from django.core.checks import Tags
from django.core.management.base import BaseCommand

from respan import firstrun
from respan.management.commands.up import prepare_database


class Command(BaseCommand):
    """Run it before the processes of a new version start."""

    help = "Bring tables and catalogue up to date; print the set-up link while there is no operator."
    requires_system_checks = (Tags.security,)

    def handle(self, *args: Any, **options: Any) -> None:
        prepare_database(self.stdout.write)
        for line in firstrun.prepare():
            self.stdout.write(line)
        self.stdout.write("Tables and catalogue are up to date.")
