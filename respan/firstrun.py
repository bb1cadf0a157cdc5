"""The first start: on loopback a demo organization with credits and a key, elsewhere a set-up link.

Facts go to `first-run.json` in the data directory (0600). Later starts keep everything and only tell the address.
Never runs twice: an installation with an operator is never changed. Neighbours: `setup.py` (makes the operator),
`management/commands/up.py`.
"""

import json
import secrets
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction

from respan import setup

DEMO_EMAIL = "operator@localhost"
DEMO_CREDITS_NANO = 5_000_000_000


def facts_file() -> Path:
    return settings.RESPAN_DATA_DIR / "first-run.json"


def prepare() -> list[str]:
    """Do what the first start does; return the lines to print once the installation answers."""
    if setup.has_operator():
        return _again()
    if not settings.RESPAN_IS_LOOPBACK:
        _write({"base_url": settings.RESPAN_BASE_URL})
        return ["", "Become the operator (this link works once, for one hour):", f"  {setup.link()}"]
    return _welcome(_make_demo())


def _make_demo() -> dict[str, Any]:
    """Make the demo organization: its owner is the operator, it has $5 of credits and an API key."""
    from accounts import keys
    from billing import ledger

    facts = {"base_url": settings.RESPAN_BASE_URL, "email": DEMO_EMAIL, "password": secrets.token_urlsafe(12)}
    with transaction.atomic():
        organization = setup.create_operator(
            email=facts["email"], password=facts["password"], organization="Demo", is_demo=True
        )
        if organization is None:  # another host was faster
            return _read()
        owner = organization.members.get()
        issued = keys.issue(organization=organization, name="Demo key", environment="production", created_by=owner)
        ledger.grant(organization=organization, amount_nano=DEMO_CREDITS_NANO, reason="Demo credits", actor=owner)
        # Written before the commit: a start that breaks here begins again, but a password is never lost.
        facts["api_key"] = issued.secret
        _write(facts)
    return facts


def _again() -> list[str]:
    facts = _read()
    if facts.get("base_url") != settings.RESPAN_BASE_URL:
        _write(facts | {"base_url": settings.RESPAN_BASE_URL})
    if settings.RESPAN_IS_LOOPBACK and "api_key" in facts:
        return [f"  Demo login and API key: {facts_file()}"]
    return []


def _welcome(facts: dict[str, Any]) -> list[str]:
    if "api_key" not in facts:
        return []
    base, key = facts["base_url"], facts["api_key"]
    return [
        f"  Sign in as {facts['email']} with the password {facts['password']}",
        f"  (kept in {facts_file()})",
        "",
        "Try it with curl:",
        "",
        f'  curl {base}/api/chat/completions -H "Authorization: Bearer {key}" \\',
        '    -H "Content-Type: application/json" \\',
        """    -d '{"model": "sandbox/echo", "messages": [{"role": "user", "content": "Hello"}]}'""",
        "",
        "or with the OpenAI SDK:",
        "",
        "  from openai import OpenAI",
        "",
        f'  client = OpenAI(base_url="{base}/api/", api_key="{key}")',
        '  messages = [{"role": "user", "content": "Hello"}]',
        '  answer = client.chat.completions.create(model="sandbox/echo", messages=messages)',
        "  print(answer.choices[0].message.content)",
    ]


def _read() -> dict[str, Any]:
    try:
        facts = json.loads(facts_file().read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _write(facts: dict[str, Any]) -> None:
    partial = facts_file().with_suffix(".partial")
    partial.touch(0o600)
    partial.chmod(0o600)
    partial.write_text(json.dumps(facts, indent=2) + "\n")
    partial.rename(facts_file())
