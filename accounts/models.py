"""The tables of people and access: users, organizations, memberships, invitations, API keys, audit events.

Never knows money, traces or providers. Neighbours: `keys.py` (API keys), `signup.py` (new organizations),
`tenancy.py` (who may see what).
"""

from typing import Any, ClassVar

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Upper
from django.utils import timezone

from respan import ids


class UserManager(BaseUserManager["User"]):
    """Creates users by e-mail address; there are no user names."""

    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":
        user = self.model(email=self.normalize_email(email).lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)

    def get_by_natural_key(self, username: str | None) -> "User":
        return self.get(email__iexact=username)


class User(AbstractBaseUser, PermissionsMixin):
    """A person. An operator is a user with `is_staff` and `is_superuser`."""

    email = models.EmailField(unique=True)
    name = models.CharField(max_length=120, blank=True)
    is_staff = models.BooleanField(default=False)
    is_active = models.BooleanField(default=True)
    date_joined = models.DateTimeField(default=timezone.now)

    objects: ClassVar[UserManager] = UserManager()

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            # Upper, not Lower: the look-up `email__iexact` compares in upper case and so uses this index.
            models.UniqueConstraint(
                Upper("email"),
                name="one_user_per_email",
                violation_error_message="A user with this e-mail address exists already.",
            ),
        ]

    def __str__(self) -> str:
        return self.email

    @classmethod
    def normalize_username(cls, username: str) -> str:
        """Return an e-mail address in the one spelling that is stored (forms clean with this)."""
        return super().normalize_username(username).lower()


class Environment(models.TextChoices):
    """What an API key partitions its records by; it never changes prices or providers."""

    PRODUCTION = "production"
    TEST = "test"


class Scope(models.TextChoices):
    """What an API key may be used for."""

    CALL = "call", "Call models"
    LOGS = "logs", "Read logs"
    # Never without being asked for: a key that calls would lift its own limits.
    MANAGE = "manage", "Change limits"


def all_scopes() -> list[str]:
    """Return the scopes of a key that nobody chose any for."""
    return [Scope.CALL.value, Scope.LOGS.value]


class Role(models.TextChoices):
    """What a member may do. Each role may do what the next one may."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"


class Organization(models.Model):
    """A tenant: every other record belongs to one."""

    public_id = models.CharField(max_length=40, unique=True, default=ids.maker("org"), editable=False)
    name = models.CharField(max_length=120)
    # The demo organization of a loopback installation may call servers on this machine.
    is_demo = models.BooleanField(default=False)
    # Days that logs are kept; empty: as long as the installation keeps them (RESPAN_RETENTION_DAYS), never longer.
    retention_days = models.PositiveSmallIntegerField(null=True, blank=True)
    # No content of calls is stored, only figures; a key may say so for itself too.
    zero_retention = models.BooleanField(default=False)
    # A deleted organization has no members, keys, credentials or logs; its entries stay for the books.
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now)
    members: "models.ManyToManyField[User, Membership]" = models.ManyToManyField(
        User, through="Membership", related_name="organizations"
    )

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    """A user's place in an organization."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role.choices)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["organization", "user"], name="one_membership_per_user"),
            models.CheckConstraint(condition=models.Q(role__in=Role.values), name="known_role"),
        ]

    def __str__(self) -> str:
        return f"{self.user} is {self.role} of {self.organization}"


class Invitation(models.Model):
    """An offer of a place in an organization, by link; with an e-mail address only that person may take it.

    The link's token is shown once; only its digest is kept. Neighbour: `invitations.py`.
    """

    public_id = models.CharField(max_length=40, unique=True, default=ids.maker("inv"), editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="invitations")
    email = models.EmailField(blank=True)
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.MEMBER)
    digest = models.BinaryField(unique=True, max_length=32, editable=False)
    invited_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True, blank=True)
    accepted_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["-created_at", "-id"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(condition=models.Q(role__in=Role.values), name="known_invited_role"),
            # One open invitation per address: inviting again renews it.
            models.UniqueConstraint(
                "organization",
                Upper("email"),
                condition=models.Q(accepted_at=None, revoked_at=None) & ~models.Q(email=""),
                name="one_open_invitation_per_email",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.email or 'anyone with the link'} as {self.role} of {self.organization}"


class ApiKey(models.Model):
    """What an SDK presents. The key itself is shown once; only its keyed digest is kept."""

    public_id = models.CharField(max_length=40, unique=True, default=ids.maker("key"), editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=120)
    digest = models.BinaryField(unique=True, max_length=32, editable=False)
    # The first characters, for example `rsp_live_a1b2`, and the last four: for people to recognise it.
    prefix = models.CharField(max_length=16, editable=False)
    last_four = models.CharField(max_length=4, editable=False)
    environment = models.CharField(max_length=12, choices=Environment.choices, default=Environment.PRODUCTION)
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    scopes = ArrayField(models.CharField(max_length=20, choices=Scope.choices), default=all_scopes)
    zero_retention = models.BooleanField(default=False)
    # After a rotation: the key that takes this one's place. This one goes on until `expires_at`.
    replaced_by = models.OneToOneField(
        "self", null=True, blank=True, editable=False, on_delete=models.SET_NULL, related_name="replaces"
    )
    # The form (or call) that asked for this key: the same wish sent twice makes one key.
    request_id = models.UUIDField(null=True, blank=True, editable=False)

    class Meta:
        ordering: ClassVar[list[str]] = ["-created_at", "-id"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["organization", "request_id"], name="one_key_per_request"),
            models.CheckConstraint(condition=models.Q(environment__in=Environment.values), name="known_environment"),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…{self.last_four})"


class AuditEvent(models.Model):
    """A sensitive action, kept for ever: a trigger refuses UPDATE, DELETE and TRUNCATE."""

    organization = models.ForeignKey(
        Organization, null=True, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+"
    )
    actor = models.ForeignKey(User, null=True, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    # For example `api_key.created`; the documented list is in accounts/audit.py.
    action = models.CharField(max_length=60)
    target = models.CharField(max_length=200, blank=True)
    detail = models.JSONField(default=dict)
    address = models.GenericIPAddressField(null=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["organization", "-created_at"], name="audit_by_organization"),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.target}"
