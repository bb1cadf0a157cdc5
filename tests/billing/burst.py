"""A web process of a test: `python -m tests.billing.burst <wallet> <n> <amount>` opens n holds at once when told to."""

import asyncio
import os
import sys
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "respan.settings")
django.setup()

from billing import ledger  # noqa: E402
from respan import pool  # noqa: E402


async def one(wallet: int, amount: int) -> str:
    deadline = datetime.now(UTC) + timedelta(minutes=10)
    try:
        await ledger.hold(
            ledger.HoldRequest(
                id=uuid.uuid4(), organization_id=wallet, amount_nano=amount, owner="burst", deadline_at=deadline
            )
        )
    except ledger.InsufficientCredits:
        return "refused"
    return "held"


async def burst(wallet: int, number: int, amount: int) -> Counter[str]:
    async with pool.connection():
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    counts = Counter(await asyncio.gather(*(one(wallet, amount) for _ in range(number))))
    await pool.close()
    return counts


if __name__ == "__main__":
    found = asyncio.run(burst(*map(int, sys.argv[1:4])))
    print(f"held={found['held']} refused={found['refused']}")
