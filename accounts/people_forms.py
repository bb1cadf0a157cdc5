"""The forms of Members, Settings and Audit log. They check input and hold no rule of the domain.

Neighbours: `member_views.py`, `settings_views.py`, `audit_views.py`.
"""

import uuid
from collections.abc import Iterable
from typing import Any

from django import forms

from accounts import history, organizations
from accounts.models import ApiKey, Membership, Organization, Role


def _day() -> forms.DateInput:
    return forms.DateInput(attrs={"class": "input", "type": "date"}, format="%Y-%m-%d")


class NameAgain(forms.CharField):
    """The organization's name, typed by hand: what comes next cannot be undone."""

    def __init__(self, organization: Organization) -> None:
        super().__init__(
            label="Type the organization's name to confirm",
            help_text=f"It is: {organization.name}",
            max_length=120,
            widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        )
        self._name = organization.name

    def clean(self, value: Any) -> str:
        typed: str = super().clean(value)
        if " ".join(typed.split()) != " ".join(self._name.split()):
            raise forms.ValidationError("This is not the organization's name.")
        return typed


class InviteForm(forms.Form):
    """Whom to invite as what. `request_id` makes a form that is sent twice invite once."""

    email = forms.EmailField(
        label="E-mail",
        required=False,
        help_text="Only the person with this address can use the link. Without one, whoever has the link can.",
        widget=forms.EmailInput(attrs={"autocomplete": "off"}),
    )
    role = forms.ChoiceField(label="Role", choices=Role.choices, initial=Role.MEMBER)
    request_id = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4)

    def __init__(self, *args: Any, roles: Iterable[Role], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["role"].choices = _choices(roles)  # type: ignore[attr-defined]


class RoleForm(forms.Form):
    """Another role for a member."""

    role = forms.ChoiceField(label="Role", choices=Role.choices)

    def __init__(self, *args: Any, roles: Iterable[Role], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["role"].choices = _choices(roles)  # type: ignore[attr-defined]


class DepartureForm(forms.Form):
    """Which of the keys that somebody created end when they go."""

    def __init__(self, *args: Any, keys: Iterable[ApiKey], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["keys"] = forms.MultipleChoiceField(
            required=False, choices=[(key.public_id, str(key)) for key in keys], widget=forms.CheckboxSelectMultiple
        )


class TransferForm(forms.Form):
    """Who becomes the owner."""

    def __init__(self, *args: Any, organization: Organization, others: Iterable[Membership], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["to"] = forms.TypedChoiceField(
            label="New owner",
            coerce=int,
            choices=[("", "Choose a member"), *((place.pk, _who(place)) for place in others)],
        )
        self.fields["name"] = NameAgain(organization)


class OrganizationNameForm(forms.Form):
    """An organization's name."""

    name = forms.CharField(
        label="Name", max_length=120, widget=forms.TextInput(attrs={"autocomplete": "organization", "dir": "auto"})
    )

    def clean_name(self) -> str:
        return " ".join(str(self.cleaned_data["name"]).split())


class RetentionForm(forms.Form):
    """How long logs are kept and whether with content; a shorter time asks again (`confirmed`)."""

    retention_days = forms.IntegerField(
        label="Days that logs are kept",
        required=False,
        min_value=1,
        widget=forms.NumberInput(attrs={"inputmode": "numeric"}),
    )
    zero_retention = forms.BooleanField(
        label="Zero retention",
        required=False,
        help_text="Nothing that people or models write is stored: no messages, answers, previews or texts of errors. "
        "Time, model, tokens, cost, status and the identifiers and metadata you send are kept, so Logs, Dashboard and "
        "Credits go on working.",
    )
    confirmed = forms.BooleanField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        longest = organizations.longest_retention()
        self.fields["retention_days"].max_value = longest  # type: ignore[attr-defined]
        self.fields["retention_days"].widget.attrs.update(max=longest, placeholder=str(longest))
        self.fields[
            "retention_days"
        ].help_text = f"From 1 to {longest}; empty: {longest}, as long as this installation keeps them."

    def clean_retention_days(self) -> int | None:
        days: int | None = self.cleaned_data["retention_days"]
        if days is not None and days > organizations.longest_retention():
            raise forms.ValidationError(f"This installation keeps logs for {organizations.longest_retention()} days.")
        return days


class DeletionForm(forms.Form):
    """The organization's name, typed."""

    def __init__(self, *args: Any, organization: Organization, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["name"] = NameAgain(organization)


class AuditFilterForm(forms.Form):
    """Which events of the audit log."""

    actor = forms.CharField(
        label="Who",
        required=False,
        max_length=254,
        widget=forms.TextInput(
            attrs={"class": "input", "list": "people", "placeholder": "Name or e-mail", "data-search": True}
        ),
    )
    action = forms.ChoiceField(label="What", required=False, widget=forms.Select(attrs={"class": "native-select"}))
    since = forms.DateField(label="From (UTC)", required=False, widget=_day())
    until = forms.DateField(label="To (UTC)", required=False, widget=_day())

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["action"].choices = [("", "Everything"), *history.choices()]  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        since, until = self.cleaned_data.get("since"), self.cleaned_data.get("until")
        if since and until and since > until:
            self.add_error("until", "This day is before the first one.")
        return self.cleaned_data

    def filters(self) -> history.Filters:
        """Return what the form asks for; a control that makes no sense filters nothing."""
        self.is_valid()
        asked = {
            name: self.cleaned_data[name] for name in ("actor", "action", "since", "until") if name in self.cleaned_data
        }
        return history.Filters(**asked)


def _choices(roles: Iterable[Role]) -> list[tuple[str, str]]:
    return [(role.value, role.label) for role in roles]


def _who(place: Membership) -> str:
    return f"{place.user.name} <{place.user.email}>" if place.user.name else place.user.email
