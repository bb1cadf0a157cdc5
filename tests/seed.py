"""Makes an organization in a running installation: `python -m tests.seed '{"credits_usd": "5"}'`.

For drills and benchmarks. Runs as a process of its own, with the installation's environment; prints one JSON object.
Reads the ledger back too: `{"report": organization_id}`. Without an argument it reads such wishes from its input, one a
line, and answers each with a line: who asks often pays for one start. Neighbours: `servers.py`, `drills/`,
`benchmarks/`.
"""

import json
import os
import sys
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "respan.settings")


def make(*, credits_usd: str = "0", provider: str = "", base_url: str = "", secret: str = "sk-fake") -> dict:
    """Make an owner, an organization, an API key and, when named, a provider key."""
    from accounts import keys, signup
    from accounts.models import User
    from billing import ledger
    from billing.usage import nano_from_usd
    from gateway import credentials

    owner = User.objects.create_user(f"{uuid.uuid4().hex}@example.test", "correct horse battery")
    organization = signup.create_organization(owner=owner, name="Drill")
    issued = keys.issue(organization=organization, name="drill", environment="production", created_by=owner)
    if nano_from_usd(credits_usd):
        ledger.grant(organization=organization, amount_nano=nano_from_usd(credits_usd), reason="drill", actor=owner)
    if provider:
        credentials.store(
            organization=organization,
            provider=provider,
            name="local",
            secret=credentials.Secret(secret),
            base_url=base_url,
            models=[],
            actor=owner,
            address=None,
        )
    return {"organization_id": organization.pk, "api_key": issued.secret}


def report(organization_id: int) -> dict:
    """Return what the ledger and the trace store say of an organization."""
    from django.db import connection

    from billing import ledger

    balance = ledger.balance(organization_id)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT status, count(*), coalesce(sum(charged_nano), 0)::bigint FROM traces_span"
            " WHERE organization_id = %s GROUP BY status",
            [organization_id],
        )
        spans = {status: {"count": count, "charged_nano": charged} for status, count, charged in cursor.fetchall()}
        cursor.execute(
            "SELECT count(*), count(DISTINCT id) FROM traces_span WHERE organization_id = %s", [organization_id]
        )
        count, distinct = cursor.fetchone()
        cursor.execute(
            "SELECT state, count(*) FROM billing_hold WHERE wallet_id = %s GROUP BY state", [organization_id]
        )
        holds = dict(cursor.fetchall())
    return {
        "posted": balance.posted,
        "held": balance.held,
        "spans": spans,
        "count": count,
        "distinct": distinct,
        "holds": holds,
    }


def main() -> None:
    import django

    django.setup()
    from django.db import connections

    for line in sys.argv[1:] or sys.stdin:
        wanted = json.loads(line)
        print(json.dumps(report(wanted["report"]) if "report" in wanted else make(**wanted)), flush=True)
        connections.close_all()  # the drill may stop the database before it asks again


if __name__ == "__main__":
    main()
