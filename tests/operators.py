"""Operators in front of the console: signed in a moment ago, or so long ago that money and keys ask again."""

import time
import uuid
from typing import Any

from django.test import Client

from tests.conftest import PASSWORD, make_user

_METHODS, _WHOSE = "account_authentication_methods", "account_authentication_methods_user"


def make_operator() -> Any:
    """Create an operator with the cast's password."""
    user = make_user("operator")
    user.is_staff = user.is_superuser = True
    user.save()
    return user


def sign_in(user: Any, *, seconds_ago: float = 0) -> Client:
    """Return a client of somebody who entered their password so long ago."""
    client = Client(REMOTE_ADDR=f"198.51.100.{uuid.uuid4().int % 250}")
    client.force_login(user)
    session = client.session
    session[_METHODS] = [{"method": "password", "at": time.time() - seconds_ago}]
    session[_WHOSE] = str(user.pk)
    session.save()
    return client


def confirm(client: Client, path: str) -> Any:
    """Answer the question who one is, on the way to `path`."""
    return client.post("/accounts/reauthenticate/", {"password": PASSWORD, "next": path})
