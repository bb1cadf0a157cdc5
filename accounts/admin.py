"""The operator's console for people: users, organizations and memberships, invitations, API keys, the audit log.

For operators only (`is_superuser`), signed in through the same page and limits as everybody. What they change is
recorded in the audit log too, and nothing is ever done in somebody else's name. Keys, invitations and events are
read-only here; a digest is never shown. Neighbours: `console.py` (what all tables share), `keys.py`, `audit.py`.
"""

from typing import TYPE_CHECKING, Any

from allauth.account.decorators import secure_admin_login
from allauth.account.forms import default_token_generator
from allauth.account.models import EmailAddress
from allauth.account.utils import user_pk_to_url_str
from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from unfold.admin import TabularInline
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.paginator import InfinitePaginator

from accounts import audit, console, factors, keys, signup
from accounts.forms import ReasonForm
from accounts.models import ApiKey, AuditEvent, Invitation, Membership, Organization, User

# Django's admin classes take parameters only in the type checker's eyes.
if TYPE_CHECKING:
    MembershipInline = admin.TabularInline[Membership, Organization]
    AnyUserAdmin = DjangoUserAdmin[User]
else:
    MembershipInline = TabularInline
    AnyUserAdmin = DjangoUserAdmin

# Sign-in to the console has the rate limits, codes and records of every other sign-in.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]
admin.site.unregister(Group)
# Their forms would show the secret of an authenticator app, and let an operator sign in as somebody.
admin.site.unregister([Authenticator, UserSession])
# Anew below, read-only: an address is verified by its owner, or comes with the user.
admin.site.unregister(EmailAddress)


class Memberships(console.OperatorOnly, MembershipInline):
    model = Membership
    extra = 0
    autocomplete_fields = ("user",)
    readonly_fields = ("created_at",)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return console.is_operator(request)


@admin.register(User)
class UserAdmin(AnyUserAdmin, console.Table):
    """Users by e-mail address; they are switched off (`is_active`), never deleted."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm

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
    change_form_outer_before_template = "admin/console_actions.html"

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.reset_factors)
        return [path("<int:pk>/second-factors/", view, name="accounts_user_second_factors"), *super().get_urls()]

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        links = []
        has_factors = object_id.isdecimal() and Authenticator.objects.filter(user_id=object_id).exists()
        if has_factors and object_id != str(request.user.pk):
            url = reverse("admin:accounts_user_second_factors", args=[object_id])
            links = [("Remove the second factors", url, "danger")]
        return super().change_view(request, object_id, form_url, {"console_actions": links, **(extra_context or {})})

    @console.fresh
    def reset_factors(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Ask why, then take away the second factors of somebody who has lost them."""
        user, actor = get_object_or_404(User, pk=pk), console.require_operator(request)
        if user.pk == actor.pk:
            raise PermissionDenied("Your own second factors are yours to remove: under Account, with a code.")
        back = reverse("admin:accounts_user_change", args=[pk])
        form = ReasonForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            reason, address = form.cleaned_data["reason"], audit.client_address(request)
            try:
                browsers = factors.reset(user, actor=actor, reason=reason, address=address)
            except factors.NoFactors:
                self.message_user(request, f"{user.email} has no second factor: nothing was changed.", messages.WARNING)
            else:
                said = f"{user.email} signs in with the password alone now, and was signed out of {browsers} browsers."
                self.message_user(request, said)
            return redirect(back)
        facts = factors.facts(user)
        return console.form_page(
            self,
            request,
            form,
            title="Remove second factors",
            button="Remove the second factors",
            lead=[
                "For somebody who has lost them: make sure by another way that it is they who ask. Whoever knows the "
                "password can then sign in with it alone.",
                "They are signed out everywhere. Their organizations see in the audit log that you did it, and why.",
            ],
            about=[
                ("User", user.email),
                ("Authenticator app", "yes" if facts["app"] else "no"),
                ("Passkeys", facts["passkeys"]),
                ("Recovery codes left", facts["codes"]),
            ],
            back=back,
            danger=True,
        )

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if not change or "email" in form.changed_data:
            signup.trust_email(obj)

    @console.fresh
    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        answer: HttpResponse = super().user_change_password(request, id, form_url)
        return answer

    @admin.action(description="Make password reset links")
    @console.fresh
    def make_reset_links(self, request: HttpRequest, queryset: QuerySet[User]) -> HttpResponse | None:
        """Show a one-time reset link for each chosen user, once."""
        users = list(queryset.filter(is_active=True)[:20])
        if not users:
            self.message_user(request, "Choose users who are active.", messages.ERROR)
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": "Password reset links",
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
        actor=console.require_operator(request),
        action="user.reset_link_made",
        target=user.email,
        address=audit.client_address(request),
    )
    return f"{settings.RESPAN_BASE_URL}{path}"


@admin.register(EmailAddress)
class EmailAddressAdmin(console.ReadOnlyTable):
    """Addresses that users sign in with, and whether they proved that they read them."""

    list_display = ("email", "user", "verified", "primary")
    list_filter = ("verified", "primary")
    list_select_related = ("user",)
    search_fields = ("email",)
    ordering = ("email",)


@admin.register(Organization)
class OrganizationAdmin(console.Table):
    """Organizations with their members; they begin at a sign-up and are deleted by their owner."""

    list_display = ("name", "public_id", "member_count", "is_demo", "created_at", "deleted_at")
    list_filter = ("is_demo", ("deleted_at", admin.EmptyFieldListFilter))
    search_fields = ("name", "public_id")
    ordering = ("-created_at", "-id")
    fields = ("name", "public_id", "is_demo", "retention_days", "zero_retention", "created_at", "deleted_at")
    readonly_fields = ("public_id", "is_demo", "retention_days", "zero_retention", "created_at", "deleted_at")
    inlines = (Memberships,)
    change_form_outer_before_template = "admin/console_actions.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Organization]:
        rows: QuerySet[Organization] = super().get_queryset(request).annotate(member_count=Count("memberships"))
        return rows

    @admin.display(description="members", ordering="member_count")
    def member_count(self, organization: Any) -> int:
        return int(organization.member_count)

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        # An organization begins with its owner and its wallet: at sign-up, not by a bare row.
        return False

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        keys_url = f"{reverse('admin:accounts_apikey_changelist')}?organization__id__exact={object_id}"
        events_url = f"{reverse('admin:accounts_auditevent_changelist')}?organization__id__exact={object_id}"
        links = [("API keys", keys_url, "default"), ("Audit log", events_url, "default")]
        return super().change_view(request, object_id, form_url, {"console_actions": links, **(extra_context or {})})


class InvitationState(admin.SimpleListFilter):
    """Which invitations: those that can still be taken, or the others."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "Open"), ("over", "Accepted, taken back or expired")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Invitation]) -> QuerySet[Invitation]:
        is_open = Q(accepted_at=None, revoked_at=None, expires_at__gt=timezone.now())
        if self.value() == "open":
            return queryset.filter(is_open)
        return queryset.exclude(is_open) if self.value() == "over" else queryset


@admin.register(Invitation)
class InvitationAdmin(console.ReadOnlyTable):
    """Who was invited where. The link is not known here: only its digest is kept, and that is not shown."""

    list_display = ("invited", "organization", "role", "state", "invited_by", "created_at", "expires_at")
    list_filter = (InvitationState, "role")
    list_select_related = ("organization", "invited_by")
    search_fields = ("email", "public_id", "organization__name", "organization__public_id")
    fields = (
        "public_id", "organization", "email", "role", "state", "invited_by", "created_at", "expires_at",
        "accepted_at", "accepted_by", "revoked_at",
    )  # fmt: skip

    @admin.display(description="invited", ordering="email")
    def invited(self, invitation: Invitation) -> str:
        return invitation.email or "anyone with the link"

    @console.label("state", {"open": "info", "accepted": "success", "taken back": "warning"})
    def state(self, invitation: Invitation) -> str:
        if invitation.accepted_at:
            return "accepted"
        if invitation.revoked_at:
            return "taken back"
        return "open" if invitation.expires_at > timezone.now() else "expired"


@admin.register(ApiKey)
class ApiKeyAdmin(console.ReadOnlyTable):
    """API keys by what people recognise them by; revoking is all that can be done to one."""

    list_display = ("name", "organization", "recognised_by", "environment", "state", "last_used_at", "created_at")
    list_filter = ("environment", ("revoked_at", admin.EmptyFieldListFilter))
    list_select_related = ("organization",)
    search_fields = ("name", "public_id", "organization__name", "organization__public_id", "last_four")
    fields = (
        "public_id", "organization", "name", "recognised_by", "environment", "scopes", "zero_retention", "created_by",
        "created_at", "expires_at", "last_used_at", "revoked_at",
    )  # fmt: skip
    actions = ("revoke",)
    change_form_outer_before_template = "admin/console_actions.html"

    @admin.display(description="begins and ends")
    def recognised_by(self, api_key: ApiKey) -> str:
        return f"{api_key.prefix}…{api_key.last_four}"

    @console.label("state", {"active": "success", "revoked": "danger", "expired": "warning"})
    def state(self, api_key: ApiKey) -> str:
        if api_key.revoked_at:
            return "revoked"
        return "expired" if api_key.expires_at and api_key.expires_at <= timezone.now() else "active"

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.revoke_one)
        return [path("<int:pk>/revoke/", view, name="accounts_apikey_revoke"), *super().get_urls()]

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        links = []
        if object_id.isdecimal() and ApiKey.objects.filter(pk=object_id, revoked_at=None).exists():
            links = [("Revoke this key", reverse("admin:accounts_apikey_revoke", args=[object_id]), "danger")]
        return super().change_view(request, object_id, form_url, {"console_actions": links, **(extra_context or {})})

    @admin.action(description="Revoke the chosen keys")
    @console.fresh
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        self._revoke(request, queryset)

    @console.fresh
    def revoke_one(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Ask, then revoke a key."""
        api_key = get_object_or_404(ApiKey.objects.select_related("organization"), pk=pk)
        back = reverse("admin:accounts_apikey_change", args=[pk])
        if request.method == "POST":
            self._revoke(request, ApiKey.objects.filter(pk=pk))
            return redirect(back)
        return console.form_page(
            self,
            request,
            forms.Form(),
            title="Revoke API key",
            button="Revoke this key",
            lead=["Calls with it are refused within 5 seconds, everywhere. This cannot be taken back."],
            about=[
                ("Key", f"{api_key.name} ({self.recognised_by(api_key)})"),
                ("Organization", api_key.organization),
                ("Last used", api_key.last_used_at or "never"),
            ],
            back=back,
            danger=True,
        )

    def _revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        now, actor = timezone.now(), console.require_operator(request)
        for api_key in queryset.filter(revoked_at=None).select_related("organization"):
            keys.revoke(api_key=api_key, actor=actor, now=now, address=audit.client_address(request))
        self.message_user(request, "The keys are revoked: calls with them are refused within 5 seconds.")


class ActionFilter(admin.SimpleListFilter):
    """What happened, from the list of what can: asking the table which there are would read all of it."""

    title = "action"
    parameter_name = "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return sorted((action, action) for action in audit.ACTIONS)

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        return queryset.filter(action=self.value()) if self.value() else queryset


@admin.register(AuditEvent)
class AuditEventAdmin(console.ReadOnlyTable):
    """Every sensitive action, of operators and of everybody else."""

    paginator = InfinitePaginator
    list_display = ("created_at", "action", "target", "actor", "organization", "address")
    list_filter = (ActionFilter,)
    list_select_related = ("actor", "organization")
    search_fields = ("target", "=action", "actor__email", "organization__public_id")
    ordering = ("-created_at", "-id")
    fields = ("created_at", "action", "target", "actor", "organization", "address", "detail")
