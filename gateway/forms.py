"""The forms of the Integrations pages: a provider key to add, to change, to test.

They check shapes and turn a pasted key into a `Secret` at once; what may be stored is decided by `credentials.py`. A
key is never rendered back, not even after a mistake elsewhere in the form.
"""

import re
import uuid
from collections.abc import Sequence

from django import forms

from gateway.credentials import MAX_SECRET_CHARS, Secret
from gateway.providers import catalog
from gateway.routing import CUSTOM


class SecretField(forms.CharField):
    """A pasted key: never put back into a page, handed on as a `Secret`."""

    def __init__(self, **options: object) -> None:
        widget = forms.PasswordInput(render_value=False, attrs={"autocomplete": "off", "spellcheck": "false"})
        super().__init__(max_length=MAX_SECRET_CHARS, widget=widget, **options)  # type: ignore[arg-type]

    def clean(self, value: object) -> Secret:
        return Secret(super().clean(value))


class ModelsField(forms.CharField):
    """Names of models, one a line or separated by commas."""

    def __init__(self) -> None:
        super().__init__(
            label="Allowed models",
            required=False,
            max_length=20_000,
            widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
            help_text="One a line. Empty: every model.",
        )

    def clean(self, value: object) -> list[str]:
        return [name for name in re.split(r"[\s,]+", super().clean(value)) if name]


class CredentialForm(forms.Form):
    """What of a stored credential can be changed; the provider and the name stay."""

    secret = SecretField(
        label="New key", required=False, help_text="Empty keeps the stored key. Another server needs its key again."
    )
    base_url = forms.CharField(label="Base URL", required=False, max_length=500)
    models = ModelsField()

    field_order: Sequence[str] = ("secret", "base_url", "models")


class NewCredentialForm(CredentialForm):
    """A provider key to add. `submission` makes a form that is sent twice store one."""

    provider = forms.ChoiceField()
    name = forms.CharField(
        max_length=60,
        help_text="For you to recognise it. Of a server of your own it is the prefix of its models, for example "
        "“my-llm” makes my-llm/llama-3.",
    )
    secret = SecretField(label="Key", required=False, help_text="Stored encrypted, never shown again.")
    base_url = forms.CharField(
        label="Base URL",
        required=False,
        max_length=500,
        help_text="Only for a server of your own or a provider's other region, for example https://llm.example.com/v1.",
    )
    submission = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4)

    field_order = ("provider", "name", "secret", "base_url", "models", "submission")

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        provider = self.fields["provider"]
        assert isinstance(provider, forms.ChoiceField)  # noqa: S101  (declared above)
        provider.choices = [("", "Choose a provider"), *provider_choices()]


class ProbeForm(forms.Form):
    """Which model to test a key with."""

    model = forms.CharField(required=False, max_length=200)


def provider_choices() -> list[tuple[str, str]]:
    """Return the providers that take a key, by name, servers of one's own last."""
    takers = [provider for provider in catalog().providers.values() if "api_key" in provider.credential_fields]
    takers.sort(key=lambda provider: (provider.id == CUSTOM, provider.name.lower()))
    return [(provider.id, provider.name) for provider in takers]
