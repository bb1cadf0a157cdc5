"""The gateway's tables: provider keys, sealed, and which of them owns each file that was uploaded through Respan.

Never holds a key in the clear, and never opens one: `credentials.py` seals, opens and rotates. Never holds the bytes of
a file: those are in the provider's account (`files.py`). Providers and models are no tables but files (`providers.py`),
but for the models that the operator adds while everything runs (`added_models.py`).
"""

from typing import ClassVar

from django.db import models
from django.utils import timezone

from accounts.models import ApiKey, Organization, User
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
    # Its share of the calls among the keys that could serve the same call.
    weight = models.PositiveSmallIntegerField(default=1)
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


class CallSettings(models.Model):
    """How an organization wants its calls carried out where a request says nothing. No row: the defaults below."""

    class Strategy(models.TextChoices):
        WEIGHTED = "weighted"
        LATENCY = "latency"
        COST = "cost"

    organization = models.OneToOneField(Organization, primary_key=True, on_delete=models.CASCADE, related_name="+")
    # Names of models as a request would write them, first tried first.
    fallback_models = models.JSONField(default=list, blank=True)
    fallback_enabled = models.BooleanField(default=True)
    retry_enabled = models.BooleanField(default=True)
    # Beside the first attempt, at the same target.
    num_retries = models.PositiveSmallIntegerField(default=2)
    # The first pause is at most this long; each further one at most twice the one before.
    retry_after_ms = models.PositiveIntegerField(default=250)
    # How a key, or a provider, is chosen where several could answer.
    strategy = models.CharField(max_length=10, choices=Strategy.choices, default=Strategy.WEIGHTED)
    cache_enabled = models.BooleanField(default=False)
    cache_ttl_s = models.PositiveIntegerField(default=1_800)
    cache_by_customer = models.BooleanField(default=False)
    cache_by_model = models.BooleanField(default=False)
    cache_omit_log = models.BooleanField(default=False)
    changed_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return f"Call settings of {self.organization_id}"


class LoadBalanceGroup(models.Model):
    """Models that share the calls which name the group."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    # What a request writes as `load_balance_group.group_id`.
    group_id = models.CharField(max_length=60)
    name = models.CharField(max_length=60)
    strategy = models.CharField(
        max_length=10, choices=CallSettings.Strategy.choices, default=CallSettings.Strategy.WEIGHTED
    )
    # [{"model": "gpt-5.4", "weight": 3, "credentials": ["cred_…"]}, …]; `credentials` is optional: any key that may.
    members = models.JSONField(default=list)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering: ClassVar[list[str]] = ["name", "id"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["organization", "group_id"], name="one_group_per_id"),
        ]

    def __str__(self) -> str:
        return self.group_id


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


class IdempotentCall(models.Model):
    """A call that must not be made twice, and its answer: for a client's `Idempotency-Key`, or for an SDK's own retry.

    Written and read by hand (`idempotency.py`, `retried.py`), gone when it has expired.
    """

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+", db_index=False)
    api_key = models.ForeignKey(ApiKey, on_delete=models.CASCADE, related_name="+", db_index=False)
    # A digest of the address and the client's key; of a retry, of all that it repeats.
    scope = models.BinaryField()
    # A digest of the body: the same key with another body is refused.
    fingerprint = models.BinaryField()
    # Which execution the row belongs to.
    claim = models.UUIDField()
    is_done = models.BooleanField(default=False)
    # `x-stainless-retry-count` of the last request that was given the answer of a dropped one.
    retry_count = models.PositiveSmallIntegerField(default=0)
    status = models.PositiveSmallIntegerField(null=True)
    content_type = models.CharField(max_length=200, blank=True)
    headers = models.JSONField(default=dict)
    is_stream = models.BooleanField(default=False)
    # Why there is no body: `too_large` or `not_kept` (zero retention).
    withheld = models.CharField(max_length=10, blank=True)
    body = models.BinaryField(null=True)
    created_at = models.DateTimeField(default=timezone.now)
    # From then on somebody else may execute it: the process that did is dead.
    deadline_at = models.DateTimeField()
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["organization", "api_key", "scope"], name="one_execution_per_scope"),
        ]

    def __str__(self) -> str:
        return f"Call {self.claim}"


class CachedAnswer(models.Model):
    """An answer that is given again to who asks the same; without `body` it is being waited for until `expires_at`.

    The table is unlogged (migration 0007): after a crash of PostgreSQL it is empty, and nothing is lost but time.
    Hand-written statements in `cache_store.py` write it.
    """

    # `cache_key.build`: the organization is a part of it.
    key = models.BinaryField(primary_key=True, max_length=32)
    # Checked by nobody: a lock on the organization's row for each answer would cost more than a row left behind.
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    environment = models.CharField(max_length=20)
    dialect = models.CharField(max_length=20)
    model = models.CharField(max_length=256)
    provider = models.CharField(max_length=40, blank=True)
    response_model = models.CharField(max_length=200, blank=True)
    customer_identifier = models.CharField(max_length=254, null=True)  # noqa: DJ001  (null: of no customer)
    # The request as a log would keep it.
    request = models.BinaryField(null=True)
    prompt_text = models.TextField(blank=True)
    answer_text = models.TextField(blank=True)
    # The whole answer in the client's dialect and, where it was streamed, the bytes of that.
    body = models.BinaryField(null=True)
    content_type = models.CharField(max_length=100, blank=True)
    events = models.BinaryField(null=True)
    events_type = models.CharField(max_length=100, blank=True)
    include_usage = models.BooleanField(default=False)
    # Of everything kept, in bytes.
    size = models.PositiveIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    # What the call cost by the catalogue's prices, and so what each hit saves; None: the price is not known.
    cost_nano = models.BigIntegerField(null=True)
    duration_us = models.BigIntegerField(default=0)
    # The call that was answered.
    log_id = models.UUIDField(null=True)
    hit_count = models.BigIntegerField(default=0)
    last_hit_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    # Who fetches the answer.
    leader = models.UUIDField(null=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["-created_at", "key"]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["organization", "environment", "-created_at"], name="cached_answers_listed"),
            models.Index(fields=["expires_at"], name="cached_answers_expiring"),
        ]

    def __str__(self) -> str:
        return self.public_key[:12]

    @property
    def public_key(self) -> str:
        return bytes(self.key).hex()

    @property
    def log_public_id(self) -> str:
        return ids.encode("log", self.log_id) if self.log_id else ""


class LimitPolicy(models.Model):
    """How much of something is allowed in a time: requests, tokens, cost, or calls under way at once."""

    class Metric(models.TextChoices):
        REQUESTS = "request_count", "Requests"
        TOKENS = "token_count", "Tokens"
        COST = "cost", "Cost"
        CONCURRENCY = "concurrency", "Calls at once"

    class Anchor(models.TextChoices):
        CALENDAR = "calendar"
        FIRST_EVENT = "first_event"
        EXPLICIT = "explicit_ts"

    public_id = models.CharField(max_length=40, unique=True, default=ids.maker("limit"), editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+", editable=False)
    name = models.CharField(max_length=120)
    # What the API calls `scope`: a word of its writer's own.
    label = models.CharField(max_length=120, blank=True)
    # What is counted apart, of `limits.SCOPES`: ["api_key_id"], ["customer_identifier", "model"]; never empty.
    compose = models.JSONField(default=list)
    # Of which it counts only one, by scope: {"model": "gpt-5.4"}; an API key is written as its row's id.
    scope_values = models.JSONField(default=dict)
    metric = models.CharField(max_length=20, choices=Metric.choices)
    # minute, hour, day, week, month, a number of seconds; empty: for ever.
    period = models.CharField(max_length=12, blank=True)
    anchor = models.CharField(max_length=12, choices=Anchor.choices, default=Anchor.CALENDAR)
    anchor_at = models.DateTimeField(null=True)
    effective_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    # The highest is asked first and named where several refuse.
    priority = models.IntegerField(default=0)
    is_active = models.BooleanField(default=True)
    # [{"severity": "hard", "value": 101, "description": ""}]: what happens when the counter reaches the value; a cost
    # is in nano-USD.
    rules = models.JSONField(default=list)
    # A change of what is counted begins new counters.
    revision = models.PositiveIntegerField(default=1)
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+", editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["-priority", "id"]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["organization", "-priority", "id"], name="limits_of_an_organization"),
        ]

    def __str__(self) -> str:
        return self.name


class LimitCounter(models.Model):
    """What was counted in the window under way. Unlogged: a crash of PostgreSQL starts every counter anew."""

    pk = models.CompositePrimaryKey("organization_id", "policy_id", "revision", "subject")
    organization_id = models.BigIntegerField()
    # `LimitPolicy.id`; 0 for the limit that a request brought along.
    policy_id = models.BigIntegerField()
    revision = models.PositiveIntegerField()
    # Whom it counts: the values of the policy's scopes, as JSON.
    subject = models.TextField()
    # Unix time in milliseconds.
    starts_ms = models.BigIntegerField()
    ends_ms = models.BigIntegerField()
    used = models.BigIntegerField(default=0)
    # How much the last statement was given, and of how much.
    granted = models.BigIntegerField(default=0)
    most = models.BigIntegerField(default=0)
    # Places for calls at once: {web process: [places, good until (ms)]}.
    holders = models.JSONField(default=dict)

    class Meta:
        indexes: ClassVar[list[models.Index]] = [models.Index(fields=["ends_ms"], name="limit_counters_ended")]

    def __str__(self) -> str:
        return f"{self.policy_id} {self.subject}"
