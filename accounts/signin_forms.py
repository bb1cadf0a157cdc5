"""django-allauth's forms in our words: labels, help before the mistake, no placeholder that repeats the label.

They add no rule. Neighbours: settings `ACCOUNT_FORMS` and `MFA_FORMS`, `forms.py` (sign-up), `templates/account/`.
"""

from typing import Any, ClassVar

from allauth.account import forms as account
from allauth.mfa.base import forms as second_factor
from allauth.mfa.totp import forms as app
from allauth.mfa.webauthn import forms as passkeys

PASSWORD_RULES = "At least 10 characters. Not a common password, and not like your e-mail address."  # noqa: S105
APP_CODE = "The six digits that your authenticator app shows now."
ANY_CODE = "The six digits of your authenticator app, or one of your recovery codes."
MAILED_CODE = "It is in the e-mail, and works for a few minutes."


class Worded:
    """A form whose fields get the labels and the help of the class, and lose their placeholders."""

    fields: dict[str, Any]
    labels: ClassVar[dict[str, str]] = {}
    helps: ClassVar[dict[str, str]] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, field in self.fields.items():
            field.widget.attrs.pop("placeholder", None)
            field.label = self.labels.get(name, field.label)
            if name in self.helps:
                field.help_text = self.helps[name]
        if "code" in self.fields:
            self.fields["code"].widget.attrs |= {"autocapitalize": "off", "spellcheck": "false", "autofocus": True}


class LoginForm(Worded, account.LoginForm):  # type: ignore[misc]
    """Sign in with e-mail address and password."""

    labels: ClassVar[dict[str, str]] = {"login": "E-mail"}
    helps: ClassVar[dict[str, str]] = {"password": ""}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # `webauthn`: browsers offer a passkey right in the field.
        self.fields["login"].widget.attrs |= {"autocomplete": "username webauthn", "autofocus": True}


class ChangePasswordForm(Worded, account.ChangePasswordForm):  # type: ignore[misc]
    """Change the password, knowing the old one."""

    labels: ClassVar[dict[str, str]] = {
        "oldpassword": "Current password",
        "password1": "New password",
        "password2": "New password again",
    }
    helps: ClassVar[dict[str, str]] = {"oldpassword": "", "password1": PASSWORD_RULES}


class SetPasswordForm(Worded, account.SetPasswordForm):  # type: ignore[misc]
    """Choose a first password."""

    labels: ClassVar[dict[str, str]] = {"password2": "Password again"}
    helps: ClassVar[dict[str, str]] = {"password1": PASSWORD_RULES}


class ResetPasswordForm(Worded, account.ResetPasswordForm):  # type: ignore[misc]
    """Ask for a link that resets the password."""

    labels: ClassVar[dict[str, str]] = {"email": "E-mail"}


class ResetPasswordKeyForm(Worded, account.ResetPasswordKeyForm):  # type: ignore[misc]
    """Choose a new password, having followed such a link."""

    labels: ClassVar[dict[str, str]] = {"password1": "New password", "password2": "New password again"}
    helps: ClassVar[dict[str, str]] = {"password1": PASSWORD_RULES}


class ReauthenticateForm(Worded, account.ReauthenticateForm):  # type: ignore[misc]
    """Say the password again before something delicate."""

    helps: ClassVar[dict[str, str]] = {"password": ""}


class AddEmailForm(Worded, account.AddEmailForm):  # type: ignore[misc]
    """Name another e-mail address."""

    labels: ClassVar[dict[str, str]] = {"email": "New address"}
    helps: ClassVar[dict[str, str]] = {"email": "We send a code there; the address changes when you have entered it."}


class ChangeEmailForm(Worded, account.ChangeEmailForm):  # type: ignore[misc]
    """Correct the address that a code was sent to."""

    labels: ClassVar[dict[str, str]] = {"email": "Right address"}


class ConfirmEmailVerificationCodeForm(Worded, account.ConfirmEmailVerificationCodeForm):  # type: ignore[misc]
    """Enter the code that was mailed to a new address."""

    helps: ClassVar[dict[str, str]] = {"code": MAILED_CODE}


class ConfirmLoginCodeForm(Worded, account.ConfirmLoginCodeForm):  # type: ignore[misc]
    """Enter the code that was mailed for a sign-in."""

    helps: ClassVar[dict[str, str]] = {"code": MAILED_CODE}


class AuthenticateForm(Worded, second_factor.AuthenticateForm):  # type: ignore[misc]
    """The code after the password."""

    helps: ClassVar[dict[str, str]] = {"code": ANY_CODE}


class ReauthenticateByCodeForm(Worded, second_factor.ReauthenticateForm):  # type: ignore[misc]
    """A code before something delicate."""

    helps: ClassVar[dict[str, str]] = {"code": ANY_CODE}


class ActivateAppForm(Worded, app.ActivateTOTPForm):  # type: ignore[misc]
    """Prove that the authenticator app has the secret."""

    labels: ClassVar[dict[str, str]] = {"code": "Code"}
    helps: ClassVar[dict[str, str]] = {"code": APP_CODE}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["code"].widget.attrs["inputmode"] = "numeric"


class AddPasskeyForm(Worded, passkeys.AddWebAuthnForm):  # type: ignore[misc]
    """Name a new passkey and say what it is for; the credential comes from the browser."""

    labels: ClassVar[dict[str, str]] = {"passwordless": "Sign in with it alone, without the password"}
    helps: ClassVar[dict[str, str]] = {
        "name": "For you to recognise it, for example the device it is on.",
        "passwordless": "Otherwise it is only a second step after the password. Needs a fingerprint, a face or a PIN.",
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["name"].max_length = 100
        self.fields["name"].widget.attrs["maxlength"] = 100
        self.fields["passwordless"].initial = True


class RenamePasskeyForm(Worded, passkeys.EditWebAuthnForm):  # type: ignore[misc]
    """Call a passkey something else."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["name"].widget.attrs["maxlength"] = 100
