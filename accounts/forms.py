"""The forms of this app: sign-up, a new API key, a new organization. They check input and hold no rule of the domain.

Neighbours: `views.py`, `signup.py`, django-allauth (`ACCOUNT_FORMS`).
"""

import uuid
from datetime import UTC, datetime, time, timedelta
from typing import Any

from allauth.account.forms import SignupForm as AllauthSignupForm
from allauth.core.exceptions import ImmediateHttpResponse
from django import forms
from django.contrib import messages
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone

from accounts import audit, signup
from accounts.models import Environment, User


class SignupForm(AllauthSignupForm):  # type: ignore[misc]
    """Sign-up with e-mail and password; creates the user and the organization together or not at all."""

    organization = forms.CharField(
        label="Organization name",
        max_length=120,
        required=False,
        widget=forms.TextInput(attrs={"autocomplete": "organization"}),
    )
    field_order = ("email", "password1", "organization")

    def save(self, request: HttpRequest) -> User:
        with transaction.atomic():
            user: User = super().save(request)
            signup.create_organization(
                owner=user, name=self.cleaned_data["organization"], address=audit.client_address(request)
            )
        return user

    def try_save(self, request: HttpRequest) -> tuple[User | None, HttpResponse | None]:
        try:
            saved: tuple[User | None, HttpResponse | None] = super().try_save(request)
        except IntegrityError:
            # The form was sent twice at once and the other one was first: the account exists now.
            messages.info(request, "This account exists already. Sign in.")
            raise ImmediateHttpResponse(redirect("account_login")) from None
        return saved


class OrganizationForm(forms.Form):
    """A new organization for somebody who has none."""

    name = forms.CharField(label="Organization name", max_length=120)


class Expiry(forms.ChoiceField):
    """Presets of an API key's life."""

    NEVER, TWO_WEEKS, THIRTY_DAYS, CUSTOM = "never", "14", "30", "custom"

    def __init__(self) -> None:
        super().__init__(
            label="Expires",
            initial=self.NEVER,
            choices=[
                (self.NEVER, "Never"),
                (self.TWO_WEEKS, "In 2 weeks"),
                (self.THIRTY_DAYS, "In 30 days"),
                (self.CUSTOM, "On a date"),
            ],
        )


class ApiKeyForm(forms.Form):
    """A new API key. `request_id` makes a form that is sent twice create one key."""

    name = forms.CharField(max_length=120, help_text="For you to recognise it, for example the app that uses it.")
    environment = forms.ChoiceField(
        choices=Environment.choices,
        initial=Environment.PRODUCTION,
        help_text="Only separates the records: test keys call the same providers and spend the same credits.",
    )
    expiry = Expiry()
    expires_on = forms.DateField(
        label="Expiry date",
        required=False,
        help_text="The last day on which the key works, in UTC.",
        widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d"),
    )
    request_id = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4)

    def clean(self) -> dict[str, Any]:
        """Turn preset and date into `expires_at`."""
        data = self.cleaned_data
        data["expires_at"] = None
        expiry = data.get("expiry")
        if expiry == Expiry.CUSTOM:
            data["expires_at"] = self._end_of_the_day()
        elif expiry in (Expiry.TWO_WEEKS, Expiry.THIRTY_DAYS):
            data["expires_at"] = timezone.now() + timedelta(days=int(expiry))
        return data

    def _end_of_the_day(self) -> datetime | None:
        if "expires_on" in self.errors:
            return None
        day = self.cleaned_data.get("expires_on")
        today = timezone.now().astimezone(UTC).date()
        if day is None:
            self.add_error("expires_on", "Choose the date on which the key expires.")
        elif not today <= day <= today + timedelta(days=3653):
            self.add_error("expires_on", "Choose a date between today and ten years from now.")
        else:
            return datetime.combine(day + timedelta(days=1), time.min, tzinfo=UTC)
        return None
