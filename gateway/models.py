"""The gateway's tables: provider keys, sealed, and which of them owns each file that was uploaded through Respan.

Never holds a key in the clear, and never opens one: `credentials.py` seals, opens and rotates. Never holds the bytes of
a file: those are in the provider's account (`files.py`). Providers and models are no tables but files (`providers.py`),
but for the models that the operator adds while everything runs (`added_models.py`).
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


class UploadedFile(models.Model):
    """A file in the provider's account behind one of an organization's own keys; only that key can read it."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+", db_index=False)
    # The provider's own id (`file-abc`); it means something to this organization only.
    file_id = models.CharField(max_length=200)
    provider = models.CharField(max_length=40)
    # `Credential.public_id`: a key that was deleted leaves its files behind, and nobody can read them.
    credential = models.CharField(max_length=40)
    filename = models.CharField(max_length=255, blank=True)
    bytes = models.BigIntegerField()
    purpose = models.CharField(max_length=40, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["-created_at", "-id"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["organization", "file_id"], name="one_file_per_id"),
        ]

    def __str__(self) -> str:
        return f"{self.file_id} ({self.provider})"


class AddedModel(models.Model):
    """A model of a listed provider that the operator added; it takes the place of a listed one with the same id."""

    # The id of a catalogue file.
    provider = models.CharField(max_length=40)
    model_id = models.CharField("model", max_length=200, help_text="What is asked for: my-model or provider/my-model.")
    upstream = models.CharField(
        "name at the provider", max_length=200, blank=True, help_text="Empty: the same as the model."
    )
    name = models.CharField("display name", max_length=200, blank=True)
    aliases = models.JSONField(default=list, blank=True)
    kind = models.CharField(max_length=20, default="chat")
    context_tokens = models.PositiveIntegerField(null=True, blank=True)
    max_output_tokens = models.PositiveIntegerField(null=True, blank=True)
    capabilities = models.JSONField(default=list, blank=True)
    thinking = models.CharField(max_length=20, default="none")
    efforts = models.JSONField(default=list, blank=True)
    unsupported = models.JSONField(default=list, blank=True)
    image_tokens = models.PositiveIntegerField(null=True, blank=True)
    # US dollars per million tokens; without `input_usd` and `output_usd` the price is unknown.
    input_usd = models.DecimalField("input", max_digits=15, decimal_places=9, null=True, blank=True)
    output_usd = models.DecimalField("output", max_digits=15, decimal_places=9, null=True, blank=True)
    cache_read_usd = models.DecimalField("cache read", max_digits=15, decimal_places=9, null=True, blank=True)
    cache_write_usd = models.DecimalField("cache write", max_digits=15, decimal_places=9, null=True, blank=True)
    cache_write_1h_usd = models.DecimalField(
        "cache write, one hour", max_digits=15, decimal_places=9, null=True, blank=True
    )
    retires_on = models.DateField(null=True, blank=True)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["provider", "model_id"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["provider", "model_id"], name="one_added_model_per_id"),
        ]

    def __str__(self) -> str:
        return f"{self.provider}/{self.model_id}"
