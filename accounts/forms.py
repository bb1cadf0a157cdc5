"""The forms of this app: sign-up, a new API key, a new organization. They check input and hold no rule of the domain.

Neighbours: `views.py`, `signup.py`, django-allauth (`ACCOUNT_FORMS`).
"""

import uuid
from datetime import UTC, datetime, time, timedelta
from typing import Any, ClassVar, cast

from allauth.account.adapter import get_adapter
from allauth.account.forms import SignupForm as AllauthSignupForm
from allauth.core import context
from allauth.core.exceptions import ImmediateHttpResponse
from django import forms
from django.conf import settings
from django.contrib import messages
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone

from accounts import audit, invitations, signup
from accounts.key_settings import Settings
from accounts.models import ApiKey, Environment, Scope, User, all_scopes
from accounts.signin_forms import PASSWORD_RULES, Worded


class SignupForm(Worded, AllauthSignupForm):  # type: ignore[misc]
    """Sign-up with e-mail and password; creates the user and the organization together or not at all."""

    organization = forms.CharField(
        label="Organization name",
        max_length=120,
        required=False,
        widget=forms.TextInput(attrs={"autocomplete": "organization"}),
    )
    field_order = ("email", "password1", "organization")
    labels: ClassVar[dict[str, str]] = {"email": "E-mail"}
    helps: ClassVar[dict[str, str]] = {
        "password1": PASSWORD_RULES,
        "organization": "Holds your keys, credits and logs. You can rename it later.",
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.invitation = invitations.leads_back(context.request)
        if self.invitation is None:
            return
        # Who comes to join has an organization to go to; where sign-up is closed, only that one.
        field = self.fields["organization"]
        field.label = "Organization of your own"
        field.help_text = f"Leave this empty to join {self.invitation.organization.name} only."
        if not settings.RESPAN_SIGNUP_OPEN:
            del self.fields["organization"]
        if self.invitation.email:
            self.fields["email"].initial = self.invitation.email

    def clean_email(self) -> str:
        email: str = super().clean_email()
        if self.invitation is not None and self.invitation.email and email != self.invitation.email.lower():
            raise forms.ValidationError(f"The invitation is for {self.invitation.email}: sign up with that address.")
        return email

    def save(self, request: HttpRequest) -> User:
        name = self.cleaned_data.get("organization", "")
        with transaction.atomic():
            user: User = super().save(request)
            if name or self.invitation is None:
                signup.create_organization(owner=user, name=name, address=audit.client_address(request))
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

    name = forms.CharField(
        label="Organization name",
        max_length=120,
        widget=forms.TextInput(attrs={"autocomplete": "organization", "dir": "auto"}),
    )


class PersonForm(forms.Form):
    """What somebody is called."""

    name = forms.CharField(
        max_length=120,
        required=False,
        help_text="Members of your organizations see it beside your e-mail address.",
        widget=forms.TextInput(attrs={"autocomplete": "name", "dir": "auto"}),
    )


class DeleteAccountForm(forms.Form):
    """The password of whoever deletes their account, checked with the limits of a sign-in."""

    password = forms.CharField(
        strip=False,
        label="Your password",
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user = user

    def clean_password(self) -> str:
        password = str(self.cleaned_data["password"])
        if not get_adapter().reauthenticate(self.user, password):
            raise get_adapter().validation_error("incorrect_password")
        return password


class ReasonForm(forms.Form):
    """Why an operator does something to somebody."""

    reason = forms.CharField(
        max_length=500,
        help_text="How you know that it is they who ask. Their organizations read it in the audit log.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )


class Expiry(forms.ChoiceField):
    """Presets of an API key's life."""

    NEVER, TWO_WEEKS, THIRTY_DAYS, NINETY_DAYS, CUSTOM = "never", "14", "30", "90", "custom"
    # Only where a key has an end already.
    UNCHANGED = "unchanged"
    PRESETS = (
        (NEVER, "Never"),
        (TWO_WEEKS, "In 2 weeks"),
        (THIRTY_DAYS, "In 30 days"),
        (NINETY_DAYS, "In 90 days"),
        (CUSTOM, "On a date"),
    )

    def __init__(self) -> None:
        super().__init__(label="Expires", initial=self.NEVER, choices=self.PRESETS)


class Access(forms.ChoiceField):
    """Which scopes an API key gets; a form that does not ask gives all of them."""

    PRESETS = (
        (f"{Scope.CALL},{Scope.LOGS}", "Call models and read logs"),
        (Scope.CALL.value, "Call models only"),
        (Scope.LOGS.value, "Read logs only"),
        (f"{Scope.LOGS},{Scope.MANAGE}", "Read logs and change limits"),
        (f"{Scope.CALL},{Scope.LOGS},{Scope.MANAGE}", "Call models, read logs and change limits"),
    )

    def __init__(self) -> None:
        super().__init__(label="May", required=False, initial=self.PRESETS[0][0], choices=self.PRESETS)

    def clean(self, value: Any) -> list[str]:
        chosen = super().clean(value)
        return chosen.split(",") if chosen else all_scopes()


class _Expiring(forms.Form):
    """Turns a preset (`expiry`) or a date into `expires_at`."""

    expiry = Expiry()
    expires_on = forms.DateField(
        label="Expiry date",
        required=False,
        help_text="The last day on which the key works, in UTC.",
        widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d"),
    )

    def clean(self) -> dict[str, Any]:
        data = self.cleaned_data
        data["expires_at"] = None
        expiry = data.get("expiry")
        if expiry == Expiry.CUSTOM:
            data["expires_at"] = self._end_of_the_day()
        elif expiry in (Expiry.TWO_WEEKS, Expiry.THIRTY_DAYS, Expiry.NINETY_DAYS):
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


class ApiKeyForm(_Expiring):
    """A new API key. `request_id` makes a form that is sent twice create one key."""

    name = forms.CharField(
        max_length=120,
        help_text="For you to recognise it, for example the app that uses it.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "autofocus": True, "dir": "auto"}),
    )
    environment = forms.ChoiceField(
        choices=Environment.choices,
        initial=Environment.PRODUCTION,
        help_text="Only separates the records: test keys call the same providers and spend the same credits.",
    )
    scopes = Access()
    zero_retention = forms.BooleanField(
        label="Zero retention",
        required=False,
        help_text="Logs keep figures only: time, tokens, cost. Nothing of what was asked or answered is stored.",
    )
    request_id = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4)


class ChangeKeyForm(_Expiring):
    """Other settings for an API key. `seen`: the mark of those its reader saw, nobody undoes what they never saw."""

    name = forms.CharField(
        max_length=120,
        widget=forms.TextInput(attrs={"autocomplete": "off", "autofocus": True, "dir": "auto"}),
    )
    scopes = Access()
    seen = forms.CharField(max_length=40, widget=forms.HiddenInput)

    def __init__(self, *args: Any, api_key: ApiKey, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.api_key, now = api_key, Settings.of(api_key)
        access = ",".join(now.scopes)
        begun = Expiry.NEVER if now.expires_at is None else Expiry.UNCHANGED
        self.initial = {"name": now.name, "scopes": access, "expiry": begun, "seen": now.mark}
        may, expiry = cast(Access, self.fields["scopes"]), cast(Expiry, self.fields["expiry"])
        # Nothing chosen gives a new key all scopes: a key that has some must not get more by being left out.
        may.required = True
        if access not in dict(Access.PRESETS):
            words = ", ".join(Scope(scope).label.lower() for scope in now.scopes).capitalize()
            may.choices = [(access, words), *Access.PRESETS]
        if now.expires_at is not None:
            until = f"Unchanged: {now.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
            expiry.choices = [(Expiry.UNCHANGED, until), *Expiry.PRESETS]

    def clean(self) -> dict[str, Any]:
        data = super().clean()
        if data.get("expiry") == Expiry.UNCHANGED:
            data["expires_at"] = self.api_key.expires_at
        return data

    def settings(self) -> Settings:
        """Return what the reader wants the key to be."""
        data = self.cleaned_data
        return Settings(data["name"], tuple(data["scopes"]), data["expires_at"])


class RotateForm(forms.Form):
    """How long the old key goes on beside the new one."""

    NOW, A_DAY, A_WEEK = "0", "24", "168"

    overlap = forms.ChoiceField(
        label="The old key works for",
        initial=A_DAY,
        choices=[(A_DAY, "24 more hours"), (A_WEEK, "7 more days"), (NOW, "Not any longer")],
        help_text="Long enough to bring the new key to every application that uses the old one.",
    )
    request_id = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4)

    def clean_overlap(self) -> timedelta:
        return timedelta(hours=int(self.cleaned_data["overlap"]))


class RevokeForm(forms.Form):
    """The name of the key that is to be revoked, typed by whoever means it."""

    name = forms.CharField(
        widget=forms.TextInput(
            attrs={
                "autocomplete": "off",
                "autocapitalize": "off",
                "spellcheck": "false",
                "autofocus": True,
                "dir": "auto",
            }
        ),
    )

    def __init__(self, *args: Any, api_key: ApiKey, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.api_key = api_key

    def clean_name(self) -> str:
        typed = str(self.cleaned_data["name"])
        if " ".join(typed.split()) != " ".join(self.api_key.name.split()):
            raise forms.ValidationError("This is not the key's name. Type it as it stands above.")
        return typed
