"""The forms of the Integrations pages: a provider key to add, to change, to test.

They check shapes and turn a pasted key into a `Secret` at once; what may be stored is decided by `credentials.py`. A
key is never rendered back, not even after a mistake elsewhere in the form.
"""

import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from django import forms

from gateway.entered import MAX_SECRET_CHARS, MAX_WEIGHT, Secret
from gateway.providers import Provider, catalog
from gateway.routing import CUSTOM


class SecretField(forms.CharField):
    """A pasted key: never put back into a page, handed on as a `Secret`."""

    def __init__(self, **options: object) -> None:
        widget = forms.PasswordInput(render_value=False, attrs={"autocomplete": "off", "spellcheck": "false"})
        super().__init__(max_length=MAX_SECRET_CHARS, widget=widget, **options)  # type: ignore[arg-type]

    def clean(self, value: object) -> Secret:
        return Secret(super().clean(value))


# What is pasted where a key is more than a word, by `Provider.auth`.
_SECRETS = {
    "google": "The JSON of a service account's key, all of it, or a key of the express mode.",
    "aws": "A Bedrock API key, or JSON with access_key_id and secret_access_key (session_token too, if there is one).",
}


class _Names(forms.Textarea):
    """A text area that may stand beside check boxes of the same name: what is ticked and what is written are one."""

    def value_from_datadict(self, data: Mapping[str, Any], files: Any, name: str) -> Any:
        values = data.getlist(name) if hasattr(data, "getlist") else [data[name]] if name in data else []
        return "\n".join(map(str, values)) if values else None


class ModelsField(forms.CharField):
    """Names of models, one a line or separated by commas."""

    def __init__(self) -> None:
        super().__init__(
            label="Allowed models",
            required=False,
            max_length=20_000,
            widget=_Names(attrs={"rows": 3, "spellcheck": "false"}),
            help_text="One a line. Empty: every model.",
        )

    def clean(self, value: object) -> list[str]:
        return _names(super().clean(value))


def _names(text: str) -> list[str]:
    return [name for name in re.split(r"[\s,]+", text) if name]


class CredentialForm(forms.Form):
    """What of a stored credential can be changed; the provider and the name stay."""

    secret = SecretField(
        label="New key", required=False, help_text="Empty keeps the stored key. Another server needs its key again."
    )
    base_url = forms.CharField(
        label="Base URL",
        required=False,
        max_length=500,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "inputmode": "url"}),
    )
    models = ModelsField()
    weight = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=MAX_WEIGHT,
        help_text="Its share of the calls among the keys that could serve the same call.",
        widget=forms.NumberInput(attrs={"inputmode": "numeric"}),
    )

    field_order: Sequence[str] = ("secret", "base_url", "models", "weight")

    def __init__(self, *args: Any, about: Provider | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        # The provider whose models are offered for choice; None: it is not chosen yet.
        self.about = about
        if about is not None and about.id != CUSTOM:
            self._fit_base_url(about)

    def _fit_base_url(self, about: Provider) -> None:
        """Ask for the base URL where each account has one of its own."""
        base_url = self.fields["base_url"]
        base_url.required = not about.base_url
        base_url.error_messages["required"] = f"{about.name} needs the address of your account there."
        base_url.help_text = about.base_url_help or "Only for a server of your own or a provider's other region."

    def listed_models(self) -> list[tuple[str, bool]]:
        """Return the provider's models and whether each is among the allowed ones."""
        chosen = set(self._chosen_models())
        return [(name, name in chosen) for name in self.about.models] if self.about else []

    def unlisted_models(self) -> str:
        """Return the allowed models the catalogue does not list, one a line."""
        listed = self.about.models if self.about else {}
        return "\n".join(name for name in self._chosen_models() if name not in listed)

    def _chosen_models(self) -> list[str]:
        return _names(self["models"].value() or "")


class NewCredentialForm(CredentialForm):
    """A provider key to add. `submission` makes a form that is sent twice store one."""

    provider = forms.ChoiceField(widget=forms.Select(attrs={"autofocus": True}))
    name = forms.CharField(
        max_length=60,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text="For you to recognise it.",
    )
    secret = SecretField(
        label="Key",
        required=False,
        help_text="Stored encrypted, never shown again.",
        error_messages={"required": "Paste the provider's key."},
    )
    submission = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4)

    field_order = ("provider", "name", "secret", "base_url", "models", "weight", "submission")

    def __init__(self, *args: Any, about: Provider | None = None, **options: Any) -> None:
        super().__init__(*args, about=about, **options)
        provider = self.fields["provider"]
        assert isinstance(provider, forms.ChoiceField)  # noqa: S101  (declared above)
        provider.choices = [("", "Choose a provider"), *provider_choices()]
        self._fit(about)

    def _fit(self, about: Provider | None) -> None:
        """Ask for what this provider needs and say what it is; None: any of them may be meant."""
        name, secret, base_url = (self.fields[each] for each in ("name", "secret", "base_url"))
        if about is None or about.id != CUSTOM:
            secret.required = about is not None
            if about is not None and about.auth in _SECRETS:
                secret.help_text = f"{_SECRETS[about.auth]} {secret.help_text}"
            return
        name.help_text = "The prefix of its models: “my-llm” makes my-llm/llama-3. Small letters, digits, hyphens."
        secret.help_text = "Empty where the server asks for none. Stored encrypted, never shown again."
        base_url.required = True
        base_url.error_messages["required"] = "A server of your own needs its base URL."
        base_url.help_text = "Where its API begins, before /chat/completions: https://llm.example.com/v1"


class ProbeForm(forms.Form):
    """Which model to test a key with."""

    model = forms.CharField(required=False, max_length=200)


def provider_choices() -> list[tuple[str, str]]:
    """Return the providers that take a key, by name, servers of one's own last."""
    takers = [provider for provider in catalog().providers.values() if "api_key" in provider.credential_fields]
    takers.sort(key=lambda provider: (provider.id == CUSTOM, provider.name.lower()))
    return [(provider.id, provider.name) for provider in takers]
