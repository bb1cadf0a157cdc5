"""Rotation of the keys that seal provider keys: every credential anew under the first key of `RESPAN_KEYS`.

Safe while calls are made: a row is locked while it is sealed anew, and both texts open as long as the old key stays in
the ring. Never changes anything but the sealed text. Neighbours: `credentials.py` seals, `manage.py rotate_keys` asks.
"""

from collections.abc import Callable
from dataclasses import dataclass

from django.db import transaction

from gateway import credentials
from gateway.models import Credential

_BATCH = 100


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation did: how many were sealed anew, and the public ids of those that do not open."""

    resealed: int
    unreadable: tuple[str, ...]


def rotate(*, progress: Callable[[int, int], None] = lambda done, total: None) -> Rotation:
    """Seal every credential anew that is not under the first key of the ring; `progress` gets done and total.

    Raises: credentials.InvalidKeyRing.
    """
    others = Credential.objects.exclude(sealed__startswith=credentials.seals_with())
    pending = list(others.order_by("pk").values_list("pk", flat=True))
    resealed, unreadable = 0, list[str]()
    for start in range(0, len(pending), _BATCH):
        batch = pending[start : start + _BATCH]
        failed = _reseal(batch)
        resealed += len(batch) - len(failed)
        unreadable += failed
        progress(start + len(batch), len(pending))
    return Rotation(resealed, tuple(unreadable))


def _reseal(pks: list[int]) -> list[str]:
    """Seal one batch in one transaction; return the public ids of those that do not open."""
    failed = []
    with transaction.atomic():
        for row in Credential.objects.select_for_update().filter(pk__in=pks).order_by("pk"):
            try:
                row.sealed = credentials.reseal(credentials.of(row))
            except credentials.CredentialUnreadable:
                failed.append(row.public_id)
                continue
            row.save(update_fields=["sealed"])
    return failed
