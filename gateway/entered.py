"""What may be stored as a provider key: the secret itself, its server, its name and its models.

Responsible for `Secret` (a key in memory that nothing can show) and for every check of what a person entered, each
refusal naming its field. Never encrypts and never stores. Neighbours: `credentials.py` (seals and keeps), `forms.py`.
"""

import re
from collections.abc import Sequence
from typing import Any, NoReturn

from accounts.models import Organization
from gateway import google_account, signing
from gateway.providers import Provider, catalog
from gateway.routing import CUSTOM
from respan import outbound
from respan.errors import Error

MAX_SECRET_CHARS = 8_192
MAX_WEIGHT = 1_000
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
_MODEL = re.compile(r"[!-~]{1,200}")


class InvalidCredential(Error):
    """A provider key, or what is said about it, cannot be stored; `param` names the field."""

    status = 400
    code = "invalid_credential"


class SecretRequired(InvalidCredential):
    """A key belongs to the server it was entered for: another one needs it again."""

    code = "secret_required"
    message = "The base URL points to another server than before. Enter the key again."


class NameTaken(InvalidCredential):
    """Two keys of one provider cannot share a name."""

    code = "name_taken"
    message = "There is a key of this provider with this name already."


class Secret:
    """A provider key in memory. Only `reveal` shows it; printing, formatting, logging, JSON and pickle do not."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the key: for the header of an upstream request and nothing else."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret(…)"

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("A secret cannot be copied or pickled")


def get_provider(provider_id: str) -> Provider:
    facts = catalog().providers.get(provider_id)
    if facts is None or "api_key" not in facts.credential_fields:
        raise InvalidCredential("Choose one of the listed providers.", param="provider")
    return facts


def checked_base_url(facts: Provider, base_url: str | None, organization: Organization | None) -> str:
    """Return the base URL to keep: empty where it is the catalogue's."""
    base_url = (base_url or "").strip().rstrip("/") or facts.base_url
    if not base_url:
        raise InvalidCredential("A server of your own needs its base URL.", param="base_url")
    if base_url == facts.base_url:
        return ""
    if len(base_url) > 500:
        raise InvalidCredential("A base URL has at most 500 characters.", param="base_url")
    loopback = organization is not None and organization.is_demo
    outbound.check_url(base_url, outbound.Policy(loopback=loopback))
    return base_url


def check_name(facts: Provider, name: str) -> None:
    if not 1 <= len(name) <= 60 or not name.isprintable() or name != name.strip():
        raise InvalidCredential("Give the key a name of 1 to 60 characters.", param="name")
    if facts.id != CUSTOM:
        return
    if not _SLUG.fullmatch(name):
        raise InvalidCredential(
            "The name is the prefix of its models: small letters, digits and hyphens, at most 40.", param="name"
        )
    if name in {word.lower() for word in catalog().reserved}:
        raise InvalidCredential(f"{name!r} is the name of a provider in the catalogue. Choose another.", param="name")


def check_secret(facts: Provider, secret: Secret) -> None:
    """Check that a secret is of the kind its provider gives out. Raises: InvalidCredential."""
    value = secret.reveal()
    if len(value) > MAX_SECRET_CHARS:
        raise InvalidCredential(f"A provider's key has at most {MAX_SECRET_CHARS} characters.", param="secret")
    try:
        if facts.auth == "aws":
            signing.aws_secret(value)
            return
        if facts.auth == "google" and value.lstrip().startswith("{"):
            google_account.account_fields(value)
            return
    except (ValueError, google_account.InvalidGoogleAccount) as error:
        raise InvalidCredential(str(error), param="secret") from None
    # It goes into a header: nothing but visible ASCII may. A server of one's own may need no key.
    if not re.fullmatch(r"[!-~]*", value) or (not value and facts.id != CUSTOM):
        raise InvalidCredential("Paste the provider's key: visible characters without blanks.", param="secret")


def check_weight(weight: int) -> None:
    """Check a share of the calls. Raises: InvalidCredential."""
    if not 1 <= weight <= MAX_WEIGHT:
        raise InvalidCredential(f"A weight is a whole number from 1 to {MAX_WEIGHT:,}.", param="weight")


def checked_models(facts: Provider, models: Sequence[str]) -> list[str]:
    """Return the allowed models under their own ids, whatever name they were given by."""
    allowed = []
    for name in models:
        if not _MODEL.fullmatch(name):
            raise InvalidCredential(f"{name[:60]!r} is not the name of a model.", param="models")
        known = [model.id for model in catalog().find(name) if model.provider == facts.id]
        allowed.append(known[0] if known else name)
    if len(allowed) > 200:
        raise InvalidCredential("Name at most 200 models, or none to allow all.", param="models")
    return list(dict.fromkeys(allowed))
