"""The set-up page: the first operator of an installation that others can reach chooses e-mail address and password.

The link is signed, lasts an hour and works only while there is no operator. Neighbours: `firstrun.py` (prints the
link), `templates/setup.html`.
"""

from django import forms
from django.conf import settings
from django.contrib.auth import login
from django.contrib.auth.password_validation import validate_password
from django.core import signing
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.debug import sensitive_post_parameters

from accounts import audit, signup
from accounts.models import Organization, User
from accounts.signin_forms import PASSWORD_RULES
from respan import pages

LINK_LIFE_S = 3600
_SALT = "respan.setup"
# An advisory lock (any number, ours): two people with the same link make one operator.
_LOCK = 7_274_001


def link() -> str:
    """Return a fresh set-up link."""
    return f"{settings.RESPAN_BASE_URL}/setup/{signing.dumps('first operator', salt=_SALT)}/"


def has_operator() -> bool:
    """Say whether anybody may enter the admin console."""
    return User.objects.filter(is_superuser=True, is_active=True).exists()


class OperatorForm(forms.Form):
    """E-mail address, password and the name of the first organization."""

    email = forms.EmailField(label="E-mail", widget=forms.EmailInput(attrs={"autocomplete": "username"}))
    password = forms.CharField(
        label="Password",
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text=PASSWORD_RULES,
        strip=False,
    )
    organization = forms.CharField(label="Organization", max_length=120, initial="My organization")

    def clean_email(self) -> str:
        email = str(self.cleaned_data["email"]).lower()
        if User.objects.filter(email=email).exists():
            raise forms.ValidationError("Somebody has signed up with this address. Choose another one.")
        return email

    def clean_password(self) -> str:
        password = str(self.cleaned_data["password"])
        validate_password(password, User(email=self.data.get("email", "")))
        return password


@never_cache
@csrf_protect
@sensitive_post_parameters("password")
def first_operator(request: HttpRequest, token: str) -> HttpResponseBase:
    """Show and take the form that makes the first operator."""
    problem = _problem(token)
    if problem:
        return pages.render(request, "setup.html", {"problem": problem}, status=403)
    form = OperatorForm(request.POST if request.method == "POST" else None)
    if request.method != "POST" or not form.is_valid():
        return _form(request, form)
    organization = create_operator(**form.cleaned_data, address=audit.client_address(request))
    if organization is None:
        return pages.render(request, "setup.html", {"problem": _TAKEN}, status=403)
    login(request, organization.members.get(), backend=settings.AUTHENTICATION_BACKENDS[0])
    return redirect("home")


_TAKEN = "This installation has its operator already. Sign in instead."


def _problem(token: str) -> str | None:
    """Say why a link does not work, or None."""
    try:
        signing.loads(token, salt=_SALT, max_age=LINK_LIFE_S)
    except signing.SignatureExpired:
        return "This link was valid for one hour. Restart Respan: it prints a new one."
    except signing.BadSignature:
        return "This is not a set-up link of this installation. Copy the whole line that Respan printed."
    return _TAKEN if has_operator() else None


def _form(request: HttpRequest, form: forms.Form) -> HttpResponse:
    return pages.render(request, "setup.html", {"form": form}, status=422 if form.errors else 200)


def create_operator(
    *, email: str, password: str, organization: str, is_demo: bool = False, address: str | None = None
) -> Organization | None:
    """Make the first operator; return the organization they own, or None when there is an operator already."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        if has_operator():
            return None
        user = User.objects.create_superuser(email, password)
        signup.trust_email(user)  # whoever reads our console is believed
        created = signup.create_organization(owner=user, name=organization, is_demo=is_demo, address=address)
        audit.record(organization=created, actor=user, action="operator.created", target=user.email, address=address)
    return created
