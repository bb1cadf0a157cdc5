"""`manage.py rotate_keys`: seal every provider key and second factor anew under the first key of RESPAN_KEYS."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts import factor_sealing
from gateway import credentials, rotation


class Command(BaseCommand):
    """Rotation without an outage: put the new key first, restart, run this, drop the old key, restart."""

    help = (
        "Seal every provider key and second factor anew under the first key of RESPAN_KEYS. Put the new key in front "
        "of the old one, restart every process, run this; when it reports nothing unreadable the old key can go. Safe "
        "while running."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            done = rotation.rotate(progress=self._progress)
            factors, lost = factor_sealing.rotate()
        except credentials.InvalidKeyRing as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{done.resealed} provider keys and {factors} second factors sealed anew.")
        if unreadable := [*done.unreadable, *lost]:
            raise CommandError(
                f"{len(unreadable)} cannot be opened with any key of RESPAN_KEYS and were left as they are: "
                f"{', '.join(unreadable)}. Keep the old key, or have them entered again."
            )

    def _progress(self, done: int, total: int) -> None:
        self.stdout.write(f"{done} of {total}")
