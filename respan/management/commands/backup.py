"""`manage.py backup FILE`: the database as one file, while everything runs. Neighbour: `respan/backup.py`."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, ProgrammingError

from respan import backup


class Command(BaseCommand):
    """Writes a backup; says what it does not hold."""

    help = "Write the database to a file (while Respan runs). Secrets only with --with-secrets; the spool never."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--with-secrets", action="store_true", help="put SECRET_KEY, pepper and key ring inside")

    def handle(self, *args: Any, file: Path, with_secrets: bool, **options: Any) -> None:
        try:
            manifest = backup.make(file, with_secrets=with_secrets, say=self._say)
        except FileExistsError:
            raise CommandError(f"{file} exists; a backup never overwrites a file.") from None
        except ProgrammingError:
            raise CommandError("There is nothing to back up: this database has no tables of Respan.") from None
        except (backup.BackupError, OSError, DatabaseError) as error:
            raise CommandError(str(error)) from None
        size = file.stat().st_size / 1024**2
        books = manifest.books
        self._say(
            f"{file}: {size:,.1f} MiB, {manifest.spans:,} traces, {books['wallets']:,} wallets,"
            f" {books['entries']:,} entries, PostgreSQL {manifest.server_major}."
        )
        if with_secrets:
            self._say("It holds the secrets: whoever has this file can read every provider key. Store it encrypted.")
        else:
            names = ", ".join(backup.SECRET_NAMES)
            self._say(f"Not in it: {names}. Keep them apart; without RESPAN_KEYS no stored provider key can be read.")

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()
