"""The demo organization for screenshots: people of each role, invitations, keys, provider keys, credits, calls.

Everything goes in by the doors real things come in by; the facts are in `respan/samples/demo.toml`. Done again it adds
what is missing and changes nothing else. Never makes anything an outsider could use: the API keys' secrets are thrown
away, the provider keys are none, the passwords are random. Neighbours: `management/commands/demo.py`,
`respan/sample.py`.
"""

import asyncio
import json
import secrets
import tomllib
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
from django.conf import settings
from django.db import transaction

from accounts import invitations, keys, signup
from accounts.models import ApiKey, Invitation, Membership, Organization, Role, User
from billing import ledger, prices
from billing.models import Entry
from billing.usage import Usage, cost, nano_from_usd
from gateway import credentials, settings_changes
from gateway.models import CallSettings, Credential, LoadBalanceGroup
from gateway.providers import catalog
from respan import pool, sample
from respan.samples import calls
from traces import seeding
from traces.spans import OK, Finished

_NAMESPACE: Final = uuid.UUID("b5b9d5a4-0b6e-4c3e-8f55-4b5a3a6f0d21")
_OWNER: Final = "demo"


def logins_file() -> Path:
    return settings.RESPAN_DATA_DIR / "demo.json"


def prepare(*, now: datetime) -> dict[str, str]:
    """Make the demo organization, or complete it; return the passwords by e-mail address."""
    facts = tomllib.loads((Path(__file__).parent / "samples" / "demo.toml").read_text())
    passwords = {person["email"]: secrets.token_urlsafe(9) for person in facts["people"]} | _read()
    _write(passwords)
    with transaction.atomic():
        people = _people(facts, passwords)
        organization = _organization(facts, people)
        _invite(facts, organization, now=now)
        made = _keys(facts, organization, people, now=now)
        _connect(facts, organization, now=now)
        _route(facts["routing"], organization, now=now)
        _credit(facts, organization)
    sample_is_due = not Entry.objects.filter(wallet_id=organization.pk, kind=Entry.Kind.USAGE).exists()
    if sample_is_due:
        sample.fill(organization, actor=None)
        _use(facts["usage"], organization, made["used"], now=now)
    return passwords


def _read() -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads(logins_file().read_text())
    except (OSError, ValueError):
        return {}
    return found


def _write(passwords: Mapping[str, str]) -> None:
    logins_file().touch(0o600)
    logins_file().write_text(json.dumps(passwords, indent=2) + "\n")


# --- People, keys, credits --------------------------------------------------------------------------------------------


def _people(facts: Mapping[str, Any], passwords: Mapping[str, str]) -> dict[str, User]:
    """Return the people by address; who is there keeps everything but a password nobody knows any more."""
    people = {}
    for person in facts["people"]:
        user, _ = User.objects.get_or_create(email=person["email"], defaults={"name": person["name"]})
        if not user.check_password(passwords[user.email]):
            user.set_password(passwords[user.email])
            user.save(update_fields=["password"])
        signup.trust_email(user)
        people[user.email] = user
    return people


def _organization(facts: Mapping[str, Any], people: Mapping[str, User]) -> Organization:
    roles = {people[person["email"]]: Role(person["role"]) for person in facts["people"]}
    owner = next(user for user, role in roles.items() if role is Role.OWNER)
    place = Membership.objects.filter(user=owner, role=Role.OWNER, organization__name=facts["organization"]).first()
    organization = place.organization if place else signup.create_organization(owner=owner, name=facts["organization"])
    for user, role in roles.items():
        Membership.objects.get_or_create(organization=organization, user=user, defaults={"role": role})
    return organization


def _owner(organization: Organization) -> User:
    return organization.memberships.filter(role=Role.OWNER).select_related("user").earliest("created_at").user


def _invite(facts: Mapping[str, Any], organization: Organization, *, now: datetime) -> None:
    for wanted in facts["invitations"]:
        if not Invitation.objects.filter(organization=organization, email=wanted["email"]).exists():
            invitations.invite(
                organization=organization,
                role=Role(wanted["role"]),
                actor=_owner(organization),
                now=now,
                email=wanted["email"],
            )


def _keys(
    facts: Mapping[str, Any], organization: Organization, people: Mapping[str, User], *, now: datetime
) -> dict[str, ApiKey]:
    """Issue the keys that are missing and throw their secrets away; return the one that is `used`."""
    found = {}
    for wanted in facts["keys"]:
        request_id = uuid.uuid5(_NAMESPACE, f"{organization.public_id}:{wanted['name']}")
        api_key = ApiKey.objects.filter(organization=organization, request_id=request_id).first()
        if api_key is None:
            api_key = _issue(wanted, organization, people[wanted["by"]], request_id, now=now)
        if wanted.get("used"):
            found["used"] = api_key
    return found


def _issue(
    wanted: Mapping[str, Any], organization: Organization, by: User, request_id: uuid.UUID, *, now: datetime
) -> ApiKey:
    days = wanted.get("expires_in_days")
    api_key = keys.issue(
        organization=organization,
        name=wanted["name"],
        environment=wanted["environment"],
        created_by=by,
        expires_at=now + timedelta(days=days) if days else None,
        scopes=wanted.get("scopes"),
        zero_retention=wanted.get("zero_retention", False),
        request_id=request_id,
    ).api_key
    if minutes := wanted.get("used_minutes_ago"):
        ApiKey.objects.filter(pk=api_key.pk).update(last_used_at=now - timedelta(minutes=minutes))
    if wanted.get("rotated"):
        keys.rotate(api_key=api_key, overlap=timedelta(days=7), actor=by, now=now)
    if wanted.get("revoked"):
        keys.revoke(api_key=api_key, actor=by, now=now)
    return api_key


def _connect(facts: Mapping[str, Any], organization: Organization, *, now: datetime) -> None:
    """Store the provider keys, with the outcome of a test that was never made."""
    for wanted in facts["credentials"]:
        is_there = Credential.objects.filter(
            organization=organization, provider=wanted["provider"], name=wanted["name"]
        ).exists()
        if is_there or wanted["provider"] not in catalog().providers:
            continue
        owner = _owner(organization)
        credential = credentials.store(
            organization=organization,
            provider=wanted["provider"],
            name=wanted["name"],
            secret=credentials.Secret(wanted["secret"]),
            models=wanted.get("models", []),
            actor=owner,
            address=None,
        )
        credentials.note_test(
            credential=credential,
            passed=wanted["passed"],
            latency_ms=wanted["latency_ms"],
            note=wanted["note"],
            actor=owner,
            address=None,
            now=now,
        )


def _route(wanted: Mapping[str, Any], organization: Organization, *, now: datetime) -> None:
    """Give it a fallback list and a load balance group, as long as it has none of its own."""
    by = settings_changes.By(_owner(organization), None)
    known = settings_changes.facts(organization, today=now.date())
    if not settings_changes.read(organization).fallback_models:
        for model in wanted["fallback_models"]:
            settings_changes.add_fallback(organization=organization, model=model, facts=known, by=by)
    if not LoadBalanceGroup.objects.filter(organization=organization).exists():
        settings_changes.store_group(
            organization=organization,
            group_id=wanted["group_id"],
            name=wanted["group_name"],
            strategy=CallSettings.Strategy.WEIGHTED,
            members=[settings_changes.Member(**each) for each in wanted["members"]],
            facts=known,
            by=by,
        )


def _credit(facts: Mapping[str, Any], organization: Organization) -> None:
    for kind, book in (("grant", ledger.grant), ("purchase", ledger.purchase)):
        book(
            organization=organization,
            amount_nano=nano_from_usd(facts[f"{kind}_usd"]),
            reason=facts[f"{kind}_reason"],
            actor=None,
            id=uuid.uuid5(_NAMESPACE, f"{organization.public_id}:{kind}"),
        )


# --- Calls on credits: held, loaded and settled like any other --------------------------------------------------------


def _use(usage: Mapping[str, Any], organization: Organization, api_key: ApiKey, *, now: datetime) -> None:
    """Make charged calls of the last two weeks, day by day, so that each day's entries bear its date."""
    made = _charged_calls(usage, organization, api_key, now=now)
    rates = prices.by_id({call.rates_id for call in made if call.rates_id is not None})
    held = [
        ledger.HoldRequest(
            id=call.id,
            organization_id=organization.pk,
            amount_nano=2 * cost(call.usage, rates[call.rates_id]),
            owner=_OWNER,
            deadline_at=now + timedelta(minutes=10),
        )
        for call in made
        if call.usage is not None and call.rates_id is not None
    ]
    asyncio.run(_hold(held))
    for _, day in groupby(made, key=lambda call: call.started_us // 86_400_000_000):
        of_the_day = list(day)
        last = of_the_day[-1]
        ended = datetime.fromtimestamp((last.started_us + last.duration_us) / 1_000_000, now.tzinfo)
        seeding.add(of_the_day, now=min(ended, now))


async def _hold(requests: Iterable[ledger.HoldRequest]) -> None:
    try:
        for request in requests:
            await ledger.hold(request)
    finally:
        await pool.close()


def _charged_calls(
    usage: Mapping[str, Any], organization: Organization, api_key: ApiKey, *, now: datetime
) -> list[Finished]:
    """Return calls with a zero-retention key: figures without content."""
    dice = Random(organization.pk)  # noqa: S311  (no secrets)
    environment = {api_key.environment: api_key.pk}
    both = dict.fromkeys(("production", "test"), api_key.pk) | environment
    scene = calls.Scene(organization_id=organization.pk, keys=both, rates=sample.rates_in_force(), now=now)
    wanted = [
        call
        for call in calls.make(scene, dice=dice, count=12 * usage["calls"])
        if call.request_model in usage["models"] and call.status == OK and call.environment == api_key.environment
    ]
    return [_larger(call, usage, dice) for call in wanted[:: max(1, len(wanted) // usage["calls"])]]


def _larger(call: Finished, usage: Mapping[str, Any], dice: Random) -> Finished:
    output_tokens = dice.randint(usage["least_output_tokens"], usage["most_output_tokens"])
    duration_us = int(call.duration_us * dice.uniform(2, 5))
    attempts = [msgspec.structs.replace(each, duration_us=duration_us - 600) for each in call.attempts]
    return msgspec.structs.replace(
        call,
        held=True,
        paid_by="credits",
        duration_us=duration_us,
        usage=Usage(
            input_tokens=dice.randint(usage["least_input_tokens"], usage["most_input_tokens"]),
            output_tokens=output_tokens,
        ),
        usage_source="exact",
        request_body=None,
        response_body=None,
        thread_identifier=None,
        finish_reason="stop",
        metadata={"app": "contract-analysis"},
        attempts=attempts,
    )
