"""The operator's console for the platform's provider keys (those without an organization).

Keys of organizations are not listed here: they are their own. The key is write-only: entered, replaced and tested,
never shown. Everything goes through `credentials.py`, which checks, seals and records it.
"""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from accounts import audit
from accounts.models import User
from gateway import credentials, routing
from gateway.forms import ModelsField, SecretField, provider_choices
from gateway.models import Credential
from gateway.probe import probe
from respan import outbound
from respan.errors import Error

if TYPE_CHECKING:
    _ModelForm = forms.ModelForm[Credential]
    _ModelAdmin = admin.ModelAdmin[Credential]
else:
    _ModelForm, _ModelAdmin = forms.ModelForm, admin.ModelAdmin


class PlatformCredentialForm(_ModelForm):
    """A key of the platform; provider and name are fixed once it is stored."""

    provider = forms.ChoiceField()
    secret = SecretField(
        label="Key", required=False, help_text="Stored encrypted, never shown. Empty keeps the stored key."
    )
    models = ModelsField()

    class Meta:
        model = Credential
        fields = ("provider", "name", "base_url")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["models"].initial = "\n".join(self.instance.allowed_models)
        if provider := self.fields.get("provider"):
            assert isinstance(provider, forms.ChoiceField)  # noqa: S101  (declared above)
            provider.choices = [choice for choice in provider_choices() if choice[0] != routing.CUSTOM]

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


@admin.register(Credential)
class PlatformCredentialAdmin(_ModelAdmin):
    """Platform keys: add, replace, test, remove."""

    form = PlatformCredentialForm
    list_display = (
        "name",
        "provider",
        "base_url",
        "last_four",
        "test_passed",
        "test_latency_ms",
        "test_note",
        "tested_at",
    )
    list_filter = ("provider",)
    search_fields = ("name", "provider")
    actions = ("test_keys",)
    fields = ("provider", "name", "secret", "base_url", "models")
    readonly_fields = ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Credential]:
        return super().get_queryset(request).filter(organization=None)

    def get_readonly_fields(self, request: HttpRequest, obj: Credential | None = None) -> tuple[str, ...]:
        return ("provider", "name") if obj else ()

    def save_model(self, request: HttpRequest, obj: Credential, form: Any, change: bool) -> None:
        data = form.cleaned_data
        who: dict[str, Any] = {"actor": _operator(request), "address": audit.client_address(request)}
        what = {"secret": data["secret"] or None, "base_url": data["base_url"], "models": data["models"]}
        if change:
            credentials.change(credential=obj, **what, **who)
            return
        stored = credentials.store(organization=None, provider=data["provider"], name=data["name"], **what, **who)
        # The admin goes on with its own instance.
        obj.__dict__.update(stored.__dict__)

    def delete_model(self, request: HttpRequest, obj: Credential) -> None:
        credentials.remove(credential=obj, actor=_operator(request), address=audit.client_address(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Credential]) -> None:
        for credential in queryset:
            self.delete_model(request, credential)

    @admin.action(description="Test the selected keys with a tiny real call", permissions=["change"])
    def test_keys(self, request: HttpRequest, queryset: QuerySet[Credential]) -> None:
        for credential in queryset[:10]:
            outcome = probe(credentials.of(credential), policy=outbound.PUBLIC)
            credentials.note_test(
                credential=credential,
                passed=outcome.passed,
                latency_ms=outcome.latency_ms,
                note=outcome.note,
                actor=_operator(request),
                address=audit.client_address(request),
                now=timezone.now(),
            )
            said = f"{credential.name}: {outcome.model or 'no model'}, {outcome.latency_ms} ms: {outcome.note}"
            self.message_user(request, said, messages.SUCCESS if outcome.passed else messages.ERROR)


def _operator(request: HttpRequest) -> User | None:
    return request.user if isinstance(request.user, User) else None
