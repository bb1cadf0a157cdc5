"""The gateway's one table: provider keys, sealed.

Never holds a key in the clear, and never opens one: `credentials.py` seals, opens and rotates. Providers and models are
no tables but files (`providers.py`).
"""

from typing import ClassVar

from django.db import models
from django.utils import timezone

from accounts.models import Organization, User
from respan import ids


class Credential(models.Model):
    """A provider's key. Without an organization it is the platform's: calls with it are paid by credits."""

    public_id = models.CharField(max_length=40, unique=True, default=ids.maker("cred"), editable=False)
    organization = models.ForeignKey(
        Organization, null=True, blank=True, on_delete=models.CASCADE, related_name="+", editable=False
    )
    # The id of a catalogue file; `custom` is a server of the organization's own.
    provider = models.CharField(max_length=40)
    # For people; of a custom server it is the prefix of its models.
    name = models.CharField(max_length=60)
    # Empty: the catalogue's.
    base_url = models.CharField(max_length=500, blank=True)
    # The ids of models it may be used for; empty: all.
    allowed_models = models.JSONField(default=list, blank=True)
    sealed = models.TextField(editable=False)
    # The end of the key, so that people recognise it; empty when the key is short.
    last_four = models.CharField(max_length=4, blank=True, editable=False)
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+", editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    sealed_at = models.DateTimeField(default=timezone.now, editable=False)
    tested_at = models.DateTimeField(null=True, editable=False)
    test_passed = models.BooleanField(null=True, editable=False)
    test_latency_ms = models.PositiveIntegerField(null=True, editable=False)
    # What the model answered, or what went wrong, in plain words.
    test_note = models.CharField(max_length=400, blank=True, editable=False)

    class Meta:
        ordering: ClassVar[list[str]] = ["provider", "name", "id"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["organization", "provider", "name"], name="one_credential_per_name", nulls_distinct=False
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.provider})"


class OrganizationCredential(Credential):
    """An organization's own key, as the operator's console lists it beside the platform's."""

    class Meta:
        proxy = True
        ordering: ClassVar[list[str]] = ["organization", "provider", "name", "id"]
