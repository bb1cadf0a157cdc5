"""Secrets of second factors at rest: sealed under the key ring, each bound to its user and its place in the row.

django-allauth keeps an authenticator app's secret and the seed of recovery codes in `Authenticator.data`. They are
sealed when a row is saved and opened when django-allauth asks (`factors.MfaAdapter.decrypt`); its own hook for sealing
does not say whose secret it is. A value from before is read as it stands and sealed with the next saving. Passkeys hold
public keys only. Neighbours: `respan.sealing`, `factors.py`, migration 0005, `manage.py rotate_keys`.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

from allauth.mfa.models import Authenticator
from django.db import transaction
from django.db.models.signals import post_init, pre_save
from django.dispatch import receiver
from django.forms import ValidationError

from respan import sealing

_PURPOSE: Final = "second-factor"
_SECRETS: Final = ("secret", "seed")
_BATCH: Final = 100


class Bound(str):
    """A sealed text and what it is bound to: whose it is can be told from the row only."""

    binding: bytes

    @classmethod
    def to(cls, sealed: str, user_id: int, place: str) -> "Bound":
        bound = cls(sealed)
        bound.binding = sealing.binding(_PURPOSE, sealing.FORMAT, str(user_id), place)
        return bound

    def opened(self) -> str:
        """Return the secret. Raises: sealing.Unreadable."""
        return sealing.unseal(self, purpose=_PURPOSE, binding=self.binding)


class Unreadable(ValidationError):
    """What a form says when a second factor cannot be read any more."""

    def __init__(self) -> None:
        super().__init__("This second factor cannot be read any more. Ask whoever runs this installation to remove it.")


def opened(text: str) -> str:
    """Return a secret as django-allauth wrote it. Raises: Unreadable."""
    if isinstance(text, Bound):
        try:
            return text.opened()
        except sealing.Unreadable:
            raise Unreadable from None
    if sealing.is_sealed(text):
        raise Unreadable  # of no row: nobody knows whose it is
    return text


def sealed(data: dict[str, Any], user_id: int) -> dict[str, Any]:
    """Return a row's data with every secret in it sealed; what is sealed already stays. Raises: InvalidKeyRing."""
    return _each(data, user_id, lambda text, place: text if sealing.is_sealed(text) else _seal(text, user_id, place))


def _seal(text: str, user_id: int, place: str) -> Bound:
    aad = sealing.binding(_PURPOSE, sealing.FORMAT, str(user_id), place)
    return Bound.to(sealing.seal(text, purpose=_PURPOSE, binding=aad), user_id, place)


def _each(data: dict[str, Any], user_id: int, change: Callable[[str, str], str]) -> dict[str, Any]:
    """Return the data with each secret changed; each is told by its place."""
    found = dict(data)
    for place in _SECRETS:
        if isinstance(found.get(place), str):
            found[place] = change(found[place], place)
    codes = found.get("migrated_codes")
    if isinstance(codes, list):
        # One place for all of them: a used one is taken out of the list.
        found["migrated_codes"] = [change(code, "migrated_codes") for code in codes]
    return found


def _texts(data: dict[str, Any]) -> Iterator[str]:
    yield from (data[place] for place in _SECRETS if isinstance(data.get(place), str))
    yield from data.get("migrated_codes") or []


@receiver(post_init, sender=Authenticator)
def on_read(instance: Authenticator, **_: object) -> None:
    """Tell each sealed text of a row whose it is."""
    if not {"data", "user_id"} <= instance.__dict__.keys() or not isinstance(instance.data, dict):
        return
    user_id = instance.user_id
    instance.data = _each(
        instance.data,
        user_id,
        lambda text, place: Bound.to(text, user_id, place) if sealing.is_sealed(text) else text,
    )


@receiver(pre_save, sender=Authenticator)
def on_save(instance: Authenticator, update_fields: frozenset[str] | None = None, **_: object) -> None:
    """Seal what a row is about to keep."""
    if not isinstance(instance.data, dict) or all(map(sealing.is_sealed, _texts(instance.data))):
        return
    instance.data = sealed(instance.data, instance.user_id)
    if update_fields is not None and "data" not in update_fields and instance.pk is not None:
        Authenticator.objects.filter(pk=instance.pk).update(data=instance.data)


def is_current(data: Any) -> bool:
    """Tell whether every secret of a row is sealed under the first key of the ring. Raises: InvalidKeyRing."""
    prefix = sealing.begins_with(_PURPOSE)
    return not isinstance(data, dict) or all(text.startswith(prefix) for text in _texts(data))


def rotate() -> tuple[int, list[str]]:
    """Seal every secret anew that is not under the first key of the ring; a plain one too.

    Returns how many rows were sealed anew, and the addresses of those whose secrets do not open.
    Raises: sealing.InvalidKeyRing.
    """
    rows = Authenticator.objects.order_by("pk").values_list("pk", "data")
    pending = [pk for pk, data in rows.iterator() if not is_current(data)]
    done, unreadable = 0, list[str]()
    for start in range(0, len(pending), _BATCH):
        batch = pending[start : start + _BATCH]
        failed = _reseal(batch)
        done += len(batch) - len(failed)
        unreadable += failed
    return done, unreadable


def _reseal(pks: list[int]) -> list[str]:
    failed = []
    with transaction.atomic():
        rows = Authenticator.objects.select_for_update(of=("self",)).filter(pk__in=pks).order_by("pk")
        for row in rows.select_related("user"):
            user_id = row.user_id
            try:
                anew = _each(row.data, user_id, lambda text, place: _seal(opened(text), user_id, place))  # noqa: B023
            except Unreadable:
                failed.append(f"{row.type} of {row.user}")
                continue
            Authenticator.objects.filter(pk=row.pk).update(data=anew)
    return failed
