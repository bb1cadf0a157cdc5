"""The forms of the Fallback, Retries and Load balance pages.

They check shapes and say what the fields are; what may be kept is decided by `settings_changes.py`, whose refusals the
views put beside the field they are about. Neighbours: `call_settings_views.py`, `load_balance_views.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from django import forms
from django.utils.text import slugify

from gateway.credentials import Stored
from gateway.entered import MAX_WEIGHT
from gateway.models import CallSettings, LoadBalanceGroup
from gateway.settings_changes import LEAST_PAUSE_MS, MOST_MEMBERS, MOST_PAUSE_MS, MOST_RETRIES, Member, members_of

# What each strategy is called, and what it does.
STRATEGIES: Final = (
    (
        CallSettings.Strategy.WEIGHTED.value,
        "By weight",
        "Each gets its share of the calls. Equal weights share equally.",
    ),
    (
        CallSettings.Strategy.LATENCY.value,
        "Least latency",
        "Who has begun to answer soonest lately comes first. One call in twenty goes by weight, to measure them all.",
    ),
    (
        CallSettings.Strategy.COST.value,
        "Lowest cost",
        "The cheapest by the catalogue's prices comes first; who has no price comes last.",
    ),
)
_NO_HELP: Final = {"autocomplete": "off", "spellcheck": "false"}
# How many empty lines a new group begins with.
_FIRST_LINES: Final = 2


class FallbackForm(forms.Form):
    """A model to put at the end of the list."""

    model = forms.CharField(
        max_length=200,
        widget=forms.TextInput(attrs={**_NO_HELP, "list": "models-offered", "placeholder": "openai/gpt-5.4"}),
        error_messages={"required": "Write the name of a model."},
    )


class MoveForm(forms.Form):
    """Another place for a model of the list, counted from 1."""

    model = forms.CharField(max_length=200)
    place = forms.IntegerField(min_value=1, max_value=100)


class SwitchForm(forms.Form):
    """On or off."""

    enabled = forms.BooleanField(required=False)


class RetriesForm(forms.Form):
    """Whether and how a failed attempt is repeated."""

    retry_enabled = forms.BooleanField(
        label="Try again when an attempt fails",
        required=False,
        help_text="Only failures that may pass: no connection, a time-out, 408, 409, 425, 429 and 5xx.",
    )
    num_retries = forms.IntegerField(
        label="Retries",
        min_value=0,
        max_value=MOST_RETRIES,
        help_text=f"Beside the first attempt, at the same model and key. At most {MOST_RETRIES}.",
        widget=forms.NumberInput(attrs={"inputmode": "numeric"}),
    )
    retry_after_ms = forms.IntegerField(
        label="First pause, in milliseconds",
        min_value=LEAST_PAUSE_MS,
        max_value=MOST_PAUSE_MS,
        help_text="The longest it lasts; the second pause lasts at most twice as long.",
        widget=forms.NumberInput(attrs={"inputmode": "numeric"}),
    )


class StrategyForm(forms.Form):
    """How one of several keys or providers is chosen."""

    strategy = forms.ChoiceField(
        choices=[(value, label) for value, label, _ in STRATEGIES],
        widget=forms.RadioSelect,
        error_messages={"required": "Choose one of the three."},
    )

    def offered(self) -> list[tuple[str, str, str, bool]]:
        """Return (value, label, what it does, whether it is chosen) of each strategy."""
        chosen = self["strategy"].value()
        return [(value, label, words, value == chosen) for value, label, words in STRATEGIES]


class GroupForm(StrategyForm):
    """What a group is called and how it chooses; its id stays once it is there."""

    name = forms.CharField(
        max_length=60,
        widget=forms.TextInput(attrs=_NO_HELP),
        help_text="For you to recognise it.",
        error_messages={"required": "Give the group a name."},
    )


class NewGroupForm(GroupForm):
    """A group to make."""

    group_id = forms.CharField(
        label="Id",
        max_length=60,
        required=False,
        widget=forms.TextInput(attrs=_NO_HELP),
        help_text="What calls write as group_id. It cannot be changed later. Empty: made from the name.",
    )

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = self.cleaned_data
        if not data.get("group_id") and data.get("name"):
            data["group_id"] = slugify(data["name"])[:60].strip("-_")
            if not data["group_id"]:
                self.add_error("group_id", "Write an id: the name has no letters to make one of.")
        return data


class MemberForm(forms.Form):
    """A model of a group. A line without a model is no member."""

    model = forms.CharField(
        max_length=200,
        required=False,
        widget=forms.TextInput(attrs={**_NO_HELP, "list": "models-offered"}),
    )
    weight = forms.IntegerField(
        min_value=1,
        max_value=MAX_WEIGHT,
        required=False,
        initial=1,
        widget=forms.NumberInput(attrs={"inputmode": "numeric"}),
    )
    credentials = forms.MultipleChoiceField(label="Keys", required=False, widget=forms.CheckboxSelectMultiple)

    def __init__(self, *args: Any, keys: Sequence[tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keys = keys
        self.fields["credentials"].choices = keys  # type: ignore[attr-defined]

    def member(self) -> Member | None:
        """Return the member this line says, None for an empty line."""
        data = self.cleaned_data
        if not data.get("model"):
            return None
        return Member(data["model"], data.get("weight") or 1, tuple(data.get("credentials") or ()))

    def offered(self) -> list[tuple[str, str, bool]]:
        """Return (id, words, whether it is chosen) of each key."""
        chosen = set(self["credentials"].value() or ())
        return [(public_id, words, public_id in chosen) for public_id, words in self.keys]

    def has_chosen_keys(self) -> bool:
        """Tell whether the line restricts the model to some keys."""
        return bool(self["credentials"].value())


MemberForms = forms.formset_factory(
    MemberForm, extra=0, max_num=MOST_MEMBERS, validate_max=True, absolute_max=MOST_MEMBERS + 1
)


def lines_of(group: LoadBalanceGroup | None) -> list[dict[str, Any]]:
    """Return the lines to begin with: a group's members, or empty ones."""
    if group is None:
        return [_line() for _ in range(_FIRST_LINES)]
    return [
        {"model": member.model, "weight": member.weight, "credentials": list(member.credentials)}
        for member in members_of(group)
    ]


def lines_typed(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the lines of a form as they were typed, right or wrong, so that one can be added or taken away."""
    typed = MemberForms(data, prefix="members", form_kwargs={"keys": ()})
    return [
        {
            "model": form["model"].value() or "",
            "weight": form["weight"].value(),
            "credentials": form["credentials"].value() or [],
        }
        for form in typed.forms[:MOST_MEMBERS]
    ]


def with_one_more(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines and an empty one, as long as there is room."""
    return [*lines, _line()][:MOST_MEMBERS]


def without(lines: Sequence[dict[str, Any]], place: str) -> list[dict[str, Any]]:
    """Return the lines without the one at a place; one line always stays."""
    left = [line for at, line in enumerate(lines) if str(at) != place]
    return left or [_line()]


def keys_offered(own: Iterable[Stored], names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return (id, `Provider · name`) of an organization's keys; `names`: id -> name of a provider."""
    return [(key.public_id, f"{names.get(key.provider, key.provider)} · {key.name}") for key in own]


def _line() -> dict[str, Any]:
    return {"model": "", "weight": 1, "credentials": []}


class GroupDeletionForm(forms.Form):
    """The group's id, typed: calls that name it fail from then on."""

    group_id = forms.CharField(
        label="Type the group's id to confirm",
        max_length=60,
        widget=forms.TextInput(attrs=_NO_HELP),
    )

    def __init__(self, *args: Any, group: LoadBalanceGroup, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._group_id = group.group_id
        self.fields["group_id"].help_text = f"It is: {group.group_id}"

    def clean_group_id(self) -> str:
        typed: str = self.cleaned_data["group_id"].strip()
        if typed != self._group_id:
            raise forms.ValidationError("This is not the group's id.")
        return typed
