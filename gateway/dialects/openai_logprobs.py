"""Pure: how likely the tokens of an answer were, in the one shape that chat completions and the Responses API share.

Responsible for reading what servers of both send (numbers that are none, lists that are null) and for writing what
their SDKs' types allow. Never says whether they were asked for. Neighbours: `openai_chat_decode_answer.py`,
`openai_chat_encode_answer.py`, `openai_responses_decode.py`, `openai_responses_write.py`.

Source: the types of openai-python 3.54 (`ChatCompletionTokenLogprob`, `ResponseOutputText.Logprob`).
"""

import math
from typing import Any

from gateway.dialects.blocks import Logprob
from gateway.dialects.wire import a_dict, dicts

# What OpenAI says of a token that is too unlikely for a number.
UNLIKELY = -9999.0


def of_choice(choice: dict[str, Any]) -> list[Logprob]:
    """Return those of a choice of a chat completion or of one of its chunks, none where there are none."""
    told = a_dict(choice.get("logprobs"))
    return read(told.get("content")) + read(told.get("refusal"))


def read(listed: object) -> list[Logprob]:
    """Return the tokens of a list, without what is none."""
    return [found for entry in dicts(listed) if (found := _token(entry)) is not None]


def number(value: object) -> float | None:
    """Return a logarithm of a probability, None where a value is none; one without bounds is OpenAI's least."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else UNLIKELY


def _token(entry: dict[str, Any]) -> Logprob | None:
    token, logprob = entry.get("token"), number(entry.get("logprob"))
    if not isinstance(token, str) or logprob is None:
        return None
    spelled = entry.get("bytes")
    whole = isinstance(spelled, list) and all(type(byte) is int for byte in spelled)
    return Logprob(token, logprob, spelled if whole else None, read(entry.get("top_logprobs")))


def written(logprobs: list[Logprob], *, spelled: bool = False) -> list[dict[str, Any]]:
    """Return the entries of a list; `spelled`: with the bytes of every token, which the Responses API demands."""
    return [
        {**_entry(each, spelled=spelled), "top_logprobs": [_entry(other, spelled=spelled) for other in each.top]}
        for each in logprobs
    ]


def _entry(each: Logprob, *, spelled: bool) -> dict[str, Any]:
    known = each.bytes if each.bytes is not None or not spelled else list(each.token.encode("utf-8", "replace"))
    return {"token": each.token, "logprob": each.logprob, "bytes": known}
