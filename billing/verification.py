"""The proof of the books: what wallets say against what holds and entries add up to.

Reads everything in one statement, so that it sees one moment of a ledger in use. Never repairs: a difference is
corrected by an adjustment with a reason. Neighbours: `management/commands/verify_ledger.py`, the tests.
"""

from dataclasses import dataclass

from django.db import connection

_DIFFERENCES = """
WITH signed AS (
    SELECT wallet_id, number, balance,
           CASE WHEN credit = 'wallet' THEN amount WHEN debit = 'wallet' THEN -amount ELSE 0 END AS change
    FROM billing_entry
), posted AS (
    SELECT wallet_id, sum(change) AS total, (array_agg(balance ORDER BY number DESC))[1] AS last FROM signed GROUP BY 1
), running AS (
    SELECT wallet_id, number, balance, sum(change) OVER (PARTITION BY wallet_id ORDER BY number) AS total FROM signed
), open_holds AS (
    SELECT wallet_id, sum(amount) AS total FROM billing_hold WHERE state = 'open' GROUP BY 1
), granted AS (
    SELECT g.id, g.wallet_id, g.amount, g.remaining,
           coalesce(sum(e.amount) FILTER (WHERE e.kind = 'grant'), 0) AS given,
           coalesce(sum(e.amount) FILTER (WHERE e.kind = 'expiry'), 0) AS expired
    FROM billing_grant g LEFT JOIN billing_entry e ON e.grant_id = g.id GROUP BY g.id
)
SELECT 'posted is the sum of entries', coalesce(w.organization_id, p.wallet_id), '', coalesce(p.total, 0), w.posted
FROM billing_wallet w FULL JOIN posted p ON p.wallet_id = w.organization_id
WHERE coalesce(p.total, 0) IS DISTINCT FROM w.posted
UNION ALL
SELECT 'held is the sum of open holds', coalesce(w.organization_id, h.wallet_id), '', coalesce(h.total, 0), w.held
FROM billing_wallet w FULL JOIN open_holds h ON h.wallet_id = w.organization_id
WHERE coalesce(h.total, 0) IS DISTINCT FROM w.held
UNION ALL
SELECT 'nothing is overspent', organization_id, '', 0, posted + credit_limit - held
FROM billing_wallet WHERE posted + credit_limit - held < 0 OR held < 0
UNION ALL
SELECT 'the balance beside an entry is the sum so far', wallet_id, number::text, total, balance
FROM running WHERE total <> balance
UNION ALL
SELECT 'a settled hold has its entry', h.wallet_id, h.id::text, 1, 0
FROM billing_hold h
WHERE h.state = 'settled'
  AND NOT EXISTS (SELECT FROM billing_entry e WHERE e.hold_id = h.id AND e.kind IN ('usage', 'absorbed'))
UNION ALL
SELECT 'a charge has its settled hold', e.wallet_id, e.id::text, 1, 0
FROM billing_entry e
WHERE e.kind IN ('usage', 'absorbed')
  AND NOT EXISTS (
      SELECT FROM billing_hold h WHERE h.id = e.hold_id AND h.state = 'settled' AND h.wallet_id = e.wallet_id
  )
UNION ALL
SELECT 'a grant is what was booked for it', wallet_id, id::text, given, amount FROM granted WHERE given <> amount
UNION ALL
SELECT 'a grant expires once', wallet_id, id::text, amount - coalesce(remaining, 0), expired
FROM granted WHERE expired > amount - coalesce(remaining, 0)
UNION ALL
SELECT 'refunds do not exceed what they refund', o.wallet_id, o.id::text, o.amount, sum(r.amount)
FROM billing_entry o JOIN billing_entry r ON r.corrects_id = o.id AND r.kind = 'refund'
GROUP BY o.id HAVING sum(r.amount) > o.amount
UNION ALL
SELECT 'an entry corrects one of its own wallet', e.wallet_id, e.id::text, e.wallet_id, o.wallet_id
FROM billing_entry e LEFT JOIN billing_entry o ON o.id = e.corrects_id
WHERE e.corrects_id IS NOT NULL AND o.wallet_id IS DISTINCT FROM e.wallet_id
ORDER BY 2, 1, 3
"""

_TOTALS = """
SELECT (SELECT count(*) FROM billing_wallet), (SELECT count(*) FROM billing_entry),
       (SELECT coalesce(sum(posted), 0) FROM billing_wallet), (SELECT coalesce(sum(held), 0) FROM billing_wallet),
       (SELECT count(*) FROM billing_hold WHERE state = 'open'),
       (SELECT count(*) FROM billing_hold WHERE state = 'open' AND deadline_at < now() - interval '2 minutes')
"""

_ACCOUNTS = """
SELECT account, sum(amount)::bigint FROM (
    SELECT credit AS account, amount FROM billing_entry UNION ALL SELECT debit, -amount FROM billing_entry
) movements GROUP BY account ORDER BY account
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """A rule that does not hold: for which wallet, at which record, what it should be and what is there."""

    rule: str
    organization_id: int
    record: str
    expected: int
    found: int | None


@dataclass(frozen=True, slots=True)
class Totals:
    """The size of the books, in nano-USD where it is money."""

    wallets: int
    entries: int
    posted: int
    held: int
    open_holds: int
    overdue_holds: int


def differences() -> list[Difference]:
    """Return every rule of the ledger that does not hold; empty when the books are right."""
    with connection.cursor() as cursor:
        cursor.execute(_DIFFERENCES)
        return [
            Difference(rule, wallet, record, int(expected), None if found is None else int(found))
            for rule, wallet, record, expected, found in cursor.fetchall()
        ]


def totals() -> Totals:
    """Return how much is in the books."""
    with connection.cursor() as cursor:
        cursor.execute(_TOTALS)
        return Totals(*map(int, cursor.fetchone()))


def accounts() -> dict[str, int]:
    """Return the balance of each account; they add up to zero, because an entry moves one amount between two."""
    with connection.cursor() as cursor:
        cursor.execute(_ACCOUNTS)
        return dict(cursor.fetchall())
