"""Records of calls as the gateway writes them, for tests of the write path."""

import time
from typing import Any

from billing.usage import Usage
from respan import ids
from traces.spans import Accepted, Attempt, Finished


def now_us() -> int:
    return time.time_ns() // 1000


def accepted(**values: Any) -> Accepted:
    """Return the record of a call that was admitted just now."""
    return Accepted(
        **{
            "id": ids.new_uuid(),
            "organization_id": 1,
            "api_key_id": 1,
            "environment": "production",
            "started_us": now_us(),
            "deadline_us": now_us() + 600_000_000,
            "model": "sandbox/echo",
            "stream": False,
            "held_nano": 0,
            **values,
        }
    )


def finished(of: Accepted | None = None, **values: Any) -> Finished:
    """Return the record of a successful call, of the one that was admitted when given."""
    if of is not None:
        values = {
            "id": of.id,
            "organization_id": of.organization_id,
            "api_key_id": of.api_key_id,
            "started_us": of.started_us,
            "held": of.held_nano > 0,
            "paid_by": "credits" if of.held_nano else "own_key",
            **values,
        }
    return Finished(
        **{
            "id": ids.new_uuid(),
            "organization_id": 1,
            "api_key_id": 1,
            "environment": "production",
            "started_us": now_us(),
            "duration_us": 820_000,
            "ttft_us": 120_000,
            "status": "ok",
            "http_status": 200,
            "provider": "openai",
            "request_model": "gpt-4o-mini",
            "response_model": "gpt-4o-mini-2024-07-18",
            "paid_by": "own_key",
            "usage": Usage(input_tokens=10, output_tokens=20),
            "usage_source": "exact",
            "finish_reason": "stop",
            "attempts": [Attempt(provider="openai", model="gpt-4o-mini", started_us=1, duration_us=2, status=200)],
            "metadata": {"team": "red"},
            "request_body": b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hello"}]}',
            "response_body": b'{"choices":[{"message":{"role":"assistant","content":"Hi there"}}]}',
            **values,
        }
    )
