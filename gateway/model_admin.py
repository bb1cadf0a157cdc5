"""The operator's console for models that the catalogue's files do not have, or have wrongly.

A form that checks what a catalogue file would be refused for; everything else (keeping, prices, telling the processes)
is `added_models.py`'s. Each change is in the audit log and needs a fresh sign-in. Neighbours: `accounts.console` (what
all tables share), `admin.py` (provider keys).
"""

import re
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts import console
from gateway import added_models
from gateway.models import AddedModel
from gateway.providers import CAPABILITIES, EFFORTS, KINDS, THINKING, catalog

if TYPE_CHECKING:
    _ModelForm = forms.ModelForm[AddedModel]
else:
    _ModelForm = forms.ModelForm

_NAME = re.compile(r"[!-~]{1,200}")
_PRICES = ("input_usd", "output_usd", "cache_read_usd", "cache_write_usd", "cache_write_1h_usd")


class NamesField(forms.CharField):
    """Names, separated by commas or blanks, kept as a list."""

    def __init__(self, **options: Any) -> None:
        super().__init__(required=False, max_length=4_000, **options)

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(value) if isinstance(value, list) else value

    def clean(self, value: Any) -> list[str]:
        names = list(dict.fromkeys(re.split(r"[\s,]+", super().clean(value).strip(" ,")))) if value else []
        if wrong := [name for name in names if name and not _NAME.fullmatch(name)]:
            raise ValidationError(f"{wrong[0][:60]!r} is not a name: visible characters without blanks.")
        return [name for name in names if name]


def _choices(words: Any) -> list[tuple[str, str]]:
    return [(word, word.replace("_", " ")) for word in words]


class AddedModelForm(_ModelForm):
    """A model as a catalogue file would describe it."""

    provider = forms.ChoiceField()
    kind = forms.ChoiceField(choices=_choices(sorted(KINDS)), initial="chat")
    thinking = forms.ChoiceField(choices=_choices(sorted(THINKING)), initial="none", help_text="How it is told to.")
    capabilities = forms.MultipleChoiceField(
        choices=_choices(sorted(CAPABILITIES)),
        required=False,
        initial=["streaming"],
        widget=forms.CheckboxSelectMultiple,
    )
    efforts = forms.MultipleChoiceField(
        choices=_choices(EFFORTS), required=False, widget=forms.CheckboxSelectMultiple, help_text="None: as usual."
    )
    aliases = NamesField(help_text="Further names it is asked for by, separated by commas.")
    unsupported = NamesField(help_text="Parameters it refuses; they are left out and reported.")

    class Meta:
        model = AddedModel
        fields = (
            "provider", "model_id", "upstream", "name", "aliases", "kind", "context_tokens", "max_output_tokens",
            "capabilities", "thinking", "efforts", "unsupported", "image_tokens", *_PRICES, "retires_on",
        )  # fmt: skip
        help_texts = {  # noqa: RUF012  (as Django declares it)
            "image_tokens": "The most input tokens one image can cost. Empty: as usual at this provider.",
            "input_usd": "US dollars per million tokens. Without input and output prices only own keys can call it.",
        }

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if provider := self.fields.get("provider"):
            assert isinstance(provider, forms.ChoiceField)  # noqa: S101  (declared above)
            listed = sorted(catalog.listed().providers.values(), key=lambda each: each.name.casefold())
            provider.choices = [(each.id, each.name) for each in listed if each.transport == "http"]
        console.dress(self)

    def clean_model_id(self) -> str:
        return _checked_name(self.cleaned_data["model_id"])

    def clean_upstream(self) -> str:
        upstream = self.cleaned_data["upstream"]
        return _checked_name(upstream) if upstream else ""

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or self.cleaned_data
        for name in _PRICES:
            if data.get(name) is not None and data[name] < 0:
                self.add_error(name, "A price is not below zero.")
        if (data.get("input_usd") is None) != (data.get("output_usd") is None):
            self.add_error("output_usd", "State both the input and the output price, or neither.")
        if data.get("input_usd") is None and any(data.get(name) is not None for name in _PRICES[2:]):
            self.add_error("input_usd", "The price of a cache alone is not a price.")
        self._check_names(data)
        self._check_images(data)
        return data

    def _check_names(self, data: dict[str, Any]) -> None:
        """Refuse names that mean another model of the provider already."""
        provider, own = data.get("provider", self.instance.provider), data.get("model_id", self.instance.model_id)
        for field, names in (("model_id", [own]), ("aliases", data.get("aliases", []))):
            for name in names:
                taken = [each for each in catalog().find(f"{provider}/{name}") if each.id != own]
                if taken:
                    self.add_error(field if field in self.fields else None, f"{name} means {taken[0].full_name}.")

    def _check_images(self, data: dict[str, Any]) -> None:
        provider = catalog.listed().providers.get(data.get("provider", self.instance.provider))
        knows = data.get("image_tokens") or (provider and provider.image_tokens)
        if "vision" in data.get("capabilities", []) and not knows:
            self.add_error("image_tokens", "A model with vision must say how many tokens an image can cost.")


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValidationError("Visible characters without blanks, at most 200.")
    return name


@admin.register(AddedModel)
class AddedModelAdmin(console.Table):
    """Models to add, change, remove: calls know them within seconds, on every host."""

    form = AddedModelForm
    list_display = ("model_id", "provider", "kind", "context_tokens", "input_usd", "output_usd", "changed_at")
    list_filter = ("provider", "kind")
    search_fields = ("model_id", "name", "provider")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return console.is_operator(request)

    def get_readonly_fields(self, request: HttpRequest, obj: AddedModel | None = None) -> tuple[str, ...]:
        return ("provider", "model_id") if obj else ()

    def save_model(self, request: HttpRequest, obj: AddedModel, form: Any, change: bool) -> None:
        added_models.store(obj)

    def delete_model(self, request: HttpRequest, obj: AddedModel) -> None:
        added_models.remove(obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[AddedModel]) -> None:
        for row in queryset:
            added_models.remove(row)
