"""`manage.py restore FILE`: a backup into the configured database, with the proof of the books afterwards.

Neighbours: `respan/backup.py`, `billing/management/commands/verify_ledger.py`, `respan/doctor.py` (do the keys open?).
"""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from respan import backup, doctor


class Command(BaseCommand):
    """Restores into an empty database, or with --force in place of what is there."""

    help = "Put a backup into the configured database. Refuses one that is in use or (without --force) not empty."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--force", action="store_true", help="drop everything in the database first")
        parser.add_argument("--secrets-to", type=Path, metavar="FILE", help="write the secrets of the backup here")

    def handle(self, *args: Any, file: Path, force: bool, secrets_to: Path | None, **options: Any) -> None:
        try:
            manifest = backup.restore(file, force=force, secrets_to=secrets_to, say=self._say)
        except (backup.BackupError, OSError, DatabaseError) as error:
            raise CommandError(str(error)) from None
        self._say(f"Restored the backup of {manifest.made_at}: {manifest.spans:,} traces. Checking the books ...")
        call_command("verify_ledger", stdout=self.stdout, stderr=self.stderr)
        if wrong := backup.differences(manifest):
            raise CommandError(f"Not the same as when the backup was made: {', '.join(wrong)}.")
        for finding in doctor.stored_keys():
            self._say(f"{finding.state}: {finding.text}. {finding.advice}".strip())
        self._say("The database is as it was. Start Respan: `manage.py up` (or `manage.py migrate` and the units).")

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()
