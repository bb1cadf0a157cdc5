"""What a call leaves behind: its one `Finished` record, with usage, bodies as they may be kept, and warnings.

Responsible for what is kept and what is not (zero retention, Respan's own members, sound and files), and for where
usage comes from. Never writes the record itself (`call.py` hands it to `traces.intake`), never prices it (the worker
does). Neighbours: `call.py`, `traces.spans`.
"""

import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from billing.usage import Usage
from gateway import params, throttle
from gateway.answers import CallFailed
from gateway.breakdown import price
from gateway.dialects import wire
from respan.errors import Error
from traces import intake
from traces.spans import Counting, Finished

if TYPE_CHECKING:
    from gateway.call import Call

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
# What the trace calls the model of an answer that came from the cache.
CACHED_MODEL = "respan/cache"
_NOT_KEPT = "The text of this error was not kept: this key keeps no content."
# About what a token is in UTF-8, across languages and code.
_BYTES_PER_TOKEN = 4
_TOKENS_PER_IMAGE = 1_000


def record(
    call: "Call", *, status: str, error: Error | None, answer: wire.Answer, response_body: bytes | None
) -> Finished:
    """Return the last word on a call."""
    target, asked, known = call.target, call.asked, call.params
    trace_id, parent_span_id = _trace_context(call.meta)
    request, request_truncated = call.stored_request or stored_request(call)
    if isinstance(error, CallFailed):
        response_body = error.body
    response, response_truncated = (None, False)
    if response_body is not None and _keeps_content(call):
        response, response_truncated = intake.redact(response_body)
    usage, usage_source, counting = _usage(call, answer)
    return Finished(
        id=call.id,
        organization_id=call.caller.organization_id,
        api_key_id=call.caller.api_key_id,
        environment=call.caller.environment,
        trace_id=trace_id,
        parent_span_id=parent_span_id,
        name=call.client.operation,
        log_type=call.client.log_type,
        started_us=call.started_us,
        duration_us=int((time.monotonic() - call.started) * 1_000_000),
        ttft_us=call.ttft_us,
        status=status,
        http_status=error.status if error else 499 if status == "aborted" else 200,
        stream=asked.stream if asked else False,
        provider=target.model.provider if target else None,
        request_model=asked.model[:200] if asked else "",
        response_model=CACHED_MODEL if call.hit else answer.model,
        credential=target.key.public_id if target and target.key else None,
        paid_by=target.paid_by if target else "nobody",
        held=call.is_held,
        rates_id=priced.rates_id if (priced := price(call, usage)) else None,
        free=target is None or target.paid_by == "free",
        usage=usage,
        usage_source=usage_source,
        counting=counting,
        finish_reason=answer.finish_reason,
        error_code=error.code if error else "client_closed" if status == "aborted" else None,
        error_message=_kept_message(call, error) if error else None,
        customer_identifier=known.customer_identifier,
        customer_name=known.customer_name,
        customer_email=known.customer_email,
        custom_identifier=known.custom_identifier,
        thread_identifier=known.thread_identifier,
        metadata=known.metadata,
        warnings=[
            *known.warnings,
            *(call.permit.warnings if call.permit else ()),
            *(f"{name} is not supported by this model and was left out" for name in call.dropped),
        ],
        attempts=call.attempts,
        request_body=request,
        response_body=response,
        request_truncated=request_truncated,
        response_truncated=response_truncated,
        disable_log=known.disable_log,
        cached=call.hit is not None,
        saved_nano=call.hit.saved_nano if call.hit else None,
        cache_key=asked_cache.cache_key if (asked_cache := call.hit or call.flight) else None,
        cache_log_id=call.hit.log_id if call.hit else None,
        load_balance_group=known.load_balance.group_id if known.load_balance else None,
        fallback=call.rank if status == "ok" else 0,
        retries=max(0, call.trail.made - 1) if call.trail else 0,
        limit=error.limit if isinstance(error, throttle.LimitReached) else call.permit.limit if call.permit else None,
    )


def stored_request(call: "Call") -> tuple[bytes | None, bool]:
    """Return the request as it may be kept: without Respan's own members, which may hold provider keys."""
    asked = call.asked
    if asked is None or not _keeps_content(call):
        return None, False  # what is unreadable might be anything
    if call.client.stored is not None:
        return intake.redact(call.client.stored(asked))
    ours = asked.members.keys() & params.ours_beside(call.client.keeps)
    return intake.redact(wire.patched(asked, drop=ours) if ours else call.body)


def _keeps_content(call: "Call") -> bool:
    return not (call.params.disable_log or call.caller.zero_retention)


def _kept_message(call: "Call", error: Error) -> str:
    """Return what is kept of an error's text: a provider's, and some of ours, repeat what they were asked."""
    return _NOT_KEPT if call.caller.zero_retention else error.message[:2_000]


def _usage(call: "Call", answer: wire.Answer) -> tuple[Usage | None, str, Counting | None]:
    """Return the usage and its source; where the provider reported none, what the worker counts instead."""
    if answer.usage is not None:
        return answer.usage, "exact", None
    if call.asked is None or not call.accepted_upstream or not call.client.counts:
        return None, "none", None
    counting = Counting(
        input_text=call.client.input_text(call.asked), output_text=answer.output_text, images=call.asked.images
    )
    if call.caller.zero_retention:
        return _estimated(counting), "counted", None
    return None, "none", counting


def _estimated(counting: Counting) -> Usage:
    """Return about how many tokens a call used: with zero retention no text may reach the worker that counts."""
    images = _TOKENS_PER_IMAGE * counting.images
    return Usage(
        input_tokens=-(-len(counting.input_text.encode(errors="replace")) // _BYTES_PER_TOKEN) + images,
        output_tokens=-(-len(counting.output_text.encode(errors="replace")) // _BYTES_PER_TOKEN),
    )


def _trace_context(meta: Mapping[str, Any]) -> tuple[bytes | None, bytes | None]:
    """Return trace and parent span id of a valid W3C traceparent header, else nothing. Never forwarded."""
    header = meta.get("HTTP_TRACEPARENT")
    match = _TRACEPARENT.fullmatch(header) if header else None
    if match is None or not int(match[1], 16) or not int(match[2], 16):
        return None, None
    return bytes.fromhex(match[1]), bytes.fromhex(match[2])
