"""The forms of billing: a redeem code, which entries to show, and what an operator does by hand. They check input and
hold no rule of money.

Neighbours: `views.py`, `admin.py`, `usage.nano_from_usd`.
"""

import uuid
from datetime import date
from typing import Any

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator

from accounts.models import Organization
from billing.statement import KINDS, Asked
from billing.usage import nano_from_usd

# No entry is outside of them, and no arithmetic of days fails inside.
_DAYS = [MinValueValidator(date(2000, 1, 1)), MaxValueValidator(date(2999, 12, 31))]


class UsdField(forms.CharField):
    """An amount in US dollars, cleaned to an integer of nano-USD."""

    def __init__(self, *, may_be_negative: bool = False, **options: Any) -> None:
        self.may_be_negative = may_be_negative
        super().__init__(max_length=30, widget=forms.TextInput(attrs={"inputmode": "decimal"}), **options)

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        if not text:
            return None
        try:
            nano = nano_from_usd(text)
        except ValueError as error:
            raise forms.ValidationError(f"{error}. Write it like 12.50.") from None
        if nano == 0 or (nano < 0 and not self.may_be_negative):
            raise forms.ValidationError("The amount must be above zero.")
        return nano


class RedeemForm(forms.Form):
    """A code that adds credits."""

    code = forms.CharField(
        label="Redeem code",
        max_length=60,
        widget=forms.TextInput(
            attrs={
                "autocomplete": "off",
                "spellcheck": "false",
                "class": "mono",
                "placeholder": "RSP-XXXX-XXXX-XXXX-XXXX",
            }
        ),
    )


class EntriesForm(forms.Form):
    """Which entries to show; it stands in the address of the page, so its names are short words."""

    kind = forms.ChoiceField(
        label="Kind", required=False, choices=[("", "All kinds"), *((kind.value, kind.label) for kind in KINDS)]
    )
    since = forms.DateField(
        label="From (UTC)", required=False, validators=_DAYS, widget=forms.DateInput(attrs={"type": "date"})
    )
    until = forms.DateField(
        label="To (UTC)", required=False, validators=_DAYS, widget=forms.DateInput(attrs={"type": "date"})
    )

    def clean(self) -> dict[str, Any] | None:
        """Refuse a time that ends before it begins."""
        since, until = self.cleaned_data.get("since"), self.cleaned_data.get("until")
        if since and until and until < since:
            self.add_error("until", "This day is before the first one.")
        return self.cleaned_data

    def asked(self) -> Asked | None:
        """Return what is asked for, or None where it makes no sense."""
        return Asked(**self.cleaned_data) if self.is_valid() else None


class MonthForm(forms.Form):
    """The month of a statement, like `2026-11`."""

    month = forms.DateField(input_formats=["%Y-%m"], validators=_DAYS)


class GrantForm(forms.Form):
    """Credits given by an operator. `request_id` makes a form that is sent twice grant once."""

    amount = UsdField(label="Amount in USD", help_text="More than $100 waits for the approval of a second operator.")
    reason = forms.CharField(max_length=500, help_text="The organization reads it on its Credits page.")
    expires_at = forms.DateTimeField(
        label="Expires (UTC)", required=False, help_text="Like 2027-01-31 00:00. Empty: never."
    )
    request_id = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4)


class AdjustForm(forms.Form):
    """A correction by an operator; negative takes credits away."""

    amount = UsdField(
        label="Amount in USD",
        may_be_negative=True,
        help_text="Negative takes credits away. More than $100 waits for the approval of a second operator.",
    )
    reason = forms.CharField(max_length=500, help_text="The organization reads it on its Credits page.")
    request_id = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4)


class RefundForm(forms.Form):
    """What an operator takes back of a charge or a purchase; the whole rest unless they say less."""

    amount = UsdField(label="Amount in USD", help_text="More than $100 waits for the approval of a second operator.")
    reason = forms.CharField(max_length=500, help_text="The organization reads it on its Credits page.")
    request_id = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4)


class RedeemCodeForm(forms.Form):
    """A new redeem code."""

    amount = UsdField(label="Amount in USD")
    max_uses = forms.IntegerField(
        label="Uses", min_value=1, max_value=1_000_000, initial=1, help_text="How many organizations may redeem it."
    )
    organization = forms.CharField(
        label="Organization id", required=False, max_length=40, help_text="Like org_… ; empty: any organization."
    )
    expires_at = forms.DateTimeField(
        label="Expires (UTC)", required=False, help_text="Like 2027-01-31 00:00. Empty: never."
    )
    note = forms.CharField(required=False, max_length=200, help_text="For operators only.")

    def clean_organization(self) -> Organization | None:
        """Turn the public id into the organization."""
        public_id = self.cleaned_data["organization"].strip()
        if not public_id:
            return None
        organization = Organization.objects.filter(public_id=public_id).first()
        if organization is None:
            raise forms.ValidationError("There is no organization with this id.")
        return organization
