"""The operator's console for provider keys: the platform's (those without an organization), and a list of the others.

A key is write-only: entered, replaced and tested with a fresh sign-in, never shown. Keys of organizations are their
own: what they are is listed, nothing about them can be changed here. Everything goes through `credentials.py`, which
checks, seals and records it. Neighbours: `accounts.console` (what all tables share), `probe.py` (the test call).
"""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone

from accounts import audit, console
from gateway import credentials, model_admin, routing  # noqa: F401  (the console finds its tables here)
from gateway.entered import MAX_WEIGHT
from gateway.forms import ModelsField, SecretField, provider_choices
from gateway.models import Credential, OrganizationCredential
from gateway.probe import probe
from respan import outbound
from respan.errors import Error

if TYPE_CHECKING:
    _ModelForm = forms.ModelForm[Credential]
else:
    _ModelForm = forms.ModelForm


class PlatformCredentialForm(_ModelForm):
    """A key of the platform; provider and name are fixed once it is stored."""

    provider = forms.ChoiceField()
    secret = SecretField(
        label="Key", required=False, help_text="Stored encrypted, never shown. Empty keeps the stored key."
    )
    models = ModelsField()
    weight = forms.IntegerField(
        required=False, min_value=1, max_value=MAX_WEIGHT, help_text="Its share of the calls among the provider's keys."
    )

    class Meta:
        model = Credential
        fields = ("provider", "name", "base_url")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["models"].initial = "\n".join(self.instance.allowed_models)
        self.fields["weight"].initial = self.instance.weight
        if provider := self.fields.get("provider"):
            assert isinstance(provider, forms.ChoiceField)  # noqa: S101  (declared above)
            provider.choices = [choice for choice in provider_choices() if choice[0] != routing.CUSTOM]
        console.dress(self)

    def clean(self) -> dict[str, Any]:
        """Check everything `credentials` would refuse, so that saving cannot fail half-way."""
        data: dict[str, Any] = super().clean() or self.cleaned_data
        if self.errors:
            return data
        stored = credentials.of(self.instance)
        try:
            data["base_url"], data["models"] = credentials.check(
                organization=None,
                provider=data.get("provider", stored.provider),
                name=data.get("name", stored.name),
                secret=data["secret"] or None,
                base_url=data["base_url"],
                models=data["models"],
                replaces=stored if self.instance.pk else None,
            )
        except outbound.ForbiddenAddress as error:
            raise ValidationError({"base_url": error.message}) from None
        except Error as error:
            field = error.param if error.param in self.fields else None
            raise ValidationError({field: error.message} if field else error.message) from None
        return data


class _Tested(console.Table):
    """Columns that say how the last test call with a key went."""

    @console.label("test", {"passed": "success", "failed": "danger", "not tested": "warning"})
    def test(self, credential: Credential) -> str:
        if credential.test_passed is None:
            return "not tested"
        return "passed" if credential.test_passed else "failed"

    @admin.display(description="key ends in")
    def ends_in(self, credential: Credential) -> str:
        return f"…{credential.last_four}" if credential.last_four else ""

    @admin.display(description="allowed models")
    def allowed(self, credential: Credential) -> str:
        return ", ".join(credential.allowed_models) or "every model"


@admin.register(Credential)
class PlatformCredentialAdmin(_Tested):
    """Platform keys: add, replace, test, remove; looking at one wants a fresh sign-in too."""

    fresh_for = frozenset({"GET", "POST"})
    form = PlatformCredentialForm
    list_display = ("name", "provider", "base_url", "ends_in", "test", "test_latency_ms", "test_note", "tested_at")
    list_filter = ("provider",)
    search_fields = ("name", "provider")
    actions = ("test_keys",)
    fields = ("provider", "name", "secret", "base_url", "models", "weight")
    readonly_fields = ()
    list_before_template = "gateway/admin_environment.html"
    change_form_outer_before_template = "admin/console_actions.html"

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return console.is_operator(request)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Credential]:
        return super().get_queryset(request).filter(organization=None)

    def get_readonly_fields(self, request: HttpRequest, obj: Credential | None = None) -> tuple[str, ...]:
        return ("provider", "name", "ends_in", "test", "test_note", "tested_at") if obj else ()

    def get_fields(self, request: HttpRequest, obj: Credential | None = None) -> tuple[str, ...]:
        seen = ("ends_in", "test", "test_note", "tested_at") if obj else ()
        return ("provider", "name", "secret", "base_url", "models", "weight", *seen)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.test_one)
        return [path("<int:pk>/test/", view, name="gateway_credential_test"), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        names = [stored.provider for stored in credentials.from_environment()]
        return super().changelist_view(request, {"from_environment": names, **(extra_context or {})})

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        links = []
        if object_id.isdecimal():
            links = [("Test this key", reverse("admin:gateway_credential_test", args=[object_id]), "default")]
        return super().change_view(request, object_id, form_url, {"console_actions": links, **(extra_context or {})})

    def save_model(self, request: HttpRequest, obj: Credential, form: Any, change: bool) -> None:
        data = form.cleaned_data
        who: dict[str, Any] = {"actor": console.require_operator(request), "address": audit.client_address(request)}
        what = {"secret": data["secret"] or None, **{name: data[name] for name in ("base_url", "models", "weight")}}
        if change:
            credentials.change(credential=obj, **what, **who)
            return
        stored = credentials.store(organization=None, provider=data["provider"], name=data["name"], **what, **who)
        # The admin goes on with its own instance.
        obj.__dict__.update(stored.__dict__)

    def _record(self, request: HttpRequest, obj: Any, action: str, message: Any) -> None:
        """`credentials.py` has recorded it already, in words of its own."""

    def delete_model(self, request: HttpRequest, obj: Credential) -> None:
        actor = console.require_operator(request)
        credentials.remove(credential=obj, actor=actor, address=audit.client_address(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Credential]) -> None:
        for credential in queryset:
            self.delete_model(request, credential)

    @admin.action(description="Test the selected keys with a tiny real call", permissions=["change"])
    @console.fresh
    def test_keys(self, request: HttpRequest, queryset: QuerySet[Credential]) -> None:
        for credential in queryset[:10]:
            self._test(request, credential)

    @console.fresh
    def test_one(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Ask, then make a test call with a key and show what came of it."""
        credential = get_object_or_404(self.get_queryset(request), pk=pk)
        back = reverse("admin:gateway_credential_change", args=[pk])
        if request.method == "POST":
            self._test(request, credential)
            return redirect(back)
        return console.form_page(
            self,
            request,
            forms.Form(),
            title="Test key",
            button="Make the test call",
            lead=["One tiny real call to the provider's cheapest model that this key may use: a few tokens."],
            about=[("Key", credential.name), ("Provider", credential.provider)],
            back=back,
        )

    def _test(self, request: HttpRequest, credential: Credential) -> None:
        outcome = probe(credentials.of(credential), policy=outbound.PUBLIC)
        credentials.note_test(
            credential=credential,
            passed=outcome.passed,
            latency_ms=outcome.latency_ms,
            note=outcome.note,
            actor=console.require_operator(request),
            address=audit.client_address(request),
            now=timezone.now(),
        )
        said = f"{credential.name}: {outcome.model or 'no model'}, {outcome.latency_ms} ms: {outcome.note}"
        self.message_user(request, said, messages.SUCCESS if outcome.passed else messages.ERROR)


@admin.register(OrganizationCredential)
class OrganizationCredentialAdmin(_Tested, console.ReadOnlyTable):
    """Keys of organizations: which there are and how their last test went. They are not the operator's to change."""

    list_display = ("name", "organization", "provider", "base_url", "ends_in", "test", "tested_at", "created_at")
    list_filter = ("provider",)
    list_select_related = ("organization",)
    search_fields = ("name", "public_id", "organization__name", "organization__public_id")
    ordering = ("organization__name", "provider", "name", "id")
    fields = (
        "public_id", "organization", "provider", "name", "base_url", "allowed", "ends_in", "created_by", "created_at",
        "sealed_at", "test", "test_note", "test_latency_ms", "tested_at",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Credential]:
        return super().get_queryset(request).exclude(organization=None)
