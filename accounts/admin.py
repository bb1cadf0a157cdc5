"""The operator's console for accounts: users, organizations, memberships, API keys, the audit log.

Plain Django admin, for operators only (`is_superuser`), signed in through the same page and limits as everybody. What
they change is recorded in the audit log too. Keys and events are read-only here; a key's digest is never shown.
Neighbours: `keys.py`, `audit.py`; other apps register their own tables.
"""

from typing import TYPE_CHECKING, Any

from allauth.account.decorators import secure_admin_login
from allauth.account.forms import default_token_generator
from allauth.account.utils import user_pk_to_url_str
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from accounts import audit, keys, signup
from accounts.models import ApiKey, AuditEvent, Membership, Organization, User

# Django's admin classes take parameters only in the type checker's eyes.
if TYPE_CHECKING:
    MembershipInline = admin.TabularInline[Membership, Organization]
    AnyUserAdmin = DjangoUserAdmin[User]
    AnyOrganizationAdmin = admin.ModelAdmin[Organization]
    AnyApiKeyAdmin = admin.ModelAdmin[ApiKey]
    AnyAuditEventAdmin = admin.ModelAdmin[AuditEvent]
else:
    MembershipInline = admin.TabularInline
    AnyUserAdmin = DjangoUserAdmin
    AnyOrganizationAdmin = AnyApiKeyAdmin = AnyAuditEventAdmin = admin.ModelAdmin

# Sign-in to the console has the rate limits, codes and records of every other sign-in.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]
admin.site.site_header = "Respan: operator's console"
admin.site.site_title = "Respan"
admin.site.unregister(Group)


class OperatorOnly:
    """Permissions of operators; a staff member who is not one sees nothing of accounts."""

    def has_module_permission(self, request: HttpRequest) -> bool:
        return _is_operator(request)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return _is_operator(request)

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return _is_operator(request)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return _is_operator(request)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class ReadOnly(OperatorOnly):
    """Nothing can be added or changed by hand."""

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class Audited:
    """Write what Django's own admin log notes into the audit log as well."""

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        self._record(request, obj, "admin.added", message)
        return super().log_addition(request, obj, message)  # type: ignore[misc]

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        self._record(request, obj, "admin.changed", message)
        return super().log_change(request, obj, message)  # type: ignore[misc]

    def log_deletions(self, request: HttpRequest, queryset: QuerySet[Any]) -> Any:
        for obj in queryset:
            self._record(request, obj, "admin.deleted", [])
        return super().log_deletions(request, queryset)  # type: ignore[misc]

    def _record(self, request: HttpRequest, obj: Any, action: str, message: Any) -> None:
        organization = obj if isinstance(obj, Organization) else getattr(obj, "organization", None)
        audit.record(
            organization=organization,
            actor=_operator(request),
            action=action,
            target=f"{obj._meta.model_name} {getattr(obj, 'public_id', None) or obj}",
            detail={"changes": message},
            address=audit.client_address(request),
        )


def _is_operator(request: HttpRequest) -> bool:
    return bool(request.user.is_active and getattr(request.user, "is_superuser", False))


def _operator(request: HttpRequest) -> User:
    assert isinstance(request.user, User)  # noqa: S101  (the permissions above let nobody else through)
    return request.user


class Memberships(OperatorOnly, MembershipInline):
    model = Membership
    extra = 0
    autocomplete_fields = ("user",)
    readonly_fields = ("created_at",)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return _is_operator(request)


@admin.register(User)
class UserAdmin(OperatorOnly, Audited, AnyUserAdmin):
    """Users by e-mail address; they are switched off (`is_active`), never deleted."""

    ordering = ("email",)
    list_display = ("email", "name", "is_active", "is_superuser", "date_joined", "last_login")
    list_filter = ("is_active", "is_superuser")
    search_fields = ("email", "name")
    filter_horizontal = ()
    readonly_fields = ("last_login", "date_joined")
    fieldsets = (
        (None, {"fields": ("email", "name", "password")}),
        ("Access", {"fields": ("is_active", "is_staff", "is_superuser")}),
        ("Dates", {"fields": ("last_login", "date_joined")}),
    )
    add_fieldsets = ((None, {"classes": ("wide",), "fields": ("email", "name", "password1", "password2")}),)
    actions = ("make_reset_links",)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if not change or "email" in form.changed_data:
            signup.trust_email(obj)

    @admin.action(description="Make password reset links")
    def make_reset_links(self, request: HttpRequest, queryset: QuerySet[User]) -> HttpResponse | None:
        """Show a one-time reset link for each chosen user, once."""
        users = list(queryset.filter(is_active=True)[:20])
        if not users:
            self.message_user(request, "Choose users who are active.", messages.ERROR)
            return None
        context = {
            **self.admin_site.each_context(request),
            "links": [(user, _reset_link(request, user)) for user in users],
            "hours": settings.PASSWORD_RESET_TIMEOUT // 3600,
        }
        return TemplateResponse(
            request, "accounts/admin_reset_links.html", context, headers={"Cache-Control": "private, no-store"}
        )


def _reset_link(request: HttpRequest, user: User) -> str:
    path: str = reverse(
        "account_reset_password_from_key",
        kwargs={"uidb36": user_pk_to_url_str(user), "key": default_token_generator.make_token(user)},
    )
    audit.record(
        organization=None,
        actor=_operator(request),
        action="user.reset_link_made",
        target=user.email,
        address=audit.client_address(request),
    )
    return f"{settings.RESPAN_BASE_URL}{path}"


@admin.register(Organization)
class OrganizationAdmin(OperatorOnly, Audited, AnyOrganizationAdmin):
    list_display = ("name", "public_id", "is_demo", "created_at")
    search_fields = ("name", "public_id")
    fields = ("name", "public_id", "is_demo", "created_at")
    readonly_fields = ("public_id", "is_demo", "created_at")
    inlines = (Memberships,)

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        # An organization begins with its owner and its wallet: at sign-up, not by a bare row.
        return False


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnly, AnyApiKeyAdmin):
    list_display = ("name", "organization", "prefix", "last_four", "environment", "last_used_at", "revoked_at")
    list_filter = ("environment",)
    list_select_related = ("organization",)
    search_fields = ("name", "public_id", "organization__name", "organization__public_id", "last_four")
    fields = (
        "public_id",
        "organization",
        "name",
        "prefix",
        "last_four",
        "environment",
        "created_by",
        "created_at",
        "expires_at",
        "last_used_at",
        "revoked_at",
    )
    actions = ("revoke",)

    @admin.action(description="Revoke the chosen keys")
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        chosen = queryset.filter(revoked_at=None).select_related("organization")
        now = timezone.now()
        for api_key in chosen:
            keys.revoke(api_key=api_key, actor=_operator(request), now=now, address=audit.client_address(request))
        self.message_user(request, "The keys are revoked: calls with them are refused within 5 seconds.")


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnly, AnyAuditEventAdmin):
    list_display = ("created_at", "action", "target", "actor", "organization", "address")
    list_filter = ("action",)
    list_select_related = ("actor", "organization")
    search_fields = ("target",)
    date_hierarchy = "created_at"
    ordering = ("-created_at", "-id")
