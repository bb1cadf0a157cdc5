"""How the fake OpenAI streams: the events of a response and the chunks of a chat completion, in the real ones' order.

Neighbours: `openai.py`.
"""

import json
from collections.abc import Iterator
from typing import Any

from tests.provider import Script
from tests.vendors import mind


def response(whole: dict[str, Any], script: Script) -> Iterator[dict[str, Any]]:
    """Yield the events of a response, numbered; `fail` and `cut` of the script end it early."""
    deltas = 0
    for number, event in enumerate(_response(whole)):
        if "fail" in script and deltas >= script.number("fail"):
            error = {"code": "server_error", "message": "The server had an error."}
            failed = whole | {"status": "failed", "error": error, "output": [], "usage": None}
            yield {"type": "response.failed", "response": failed, "sequence_number": number}
            return
        if "cut" in script and deltas >= script.number("cut"):
            return
        yield event | {"sequence_number": number}
        deltas += event["type"].endswith(".delta")


def _response(whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    begun = whole | {"status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(whole["output"]):
        place = {"output_index": index}
        yield {"type": "response.output_item.added", **place, "item": _empty(item)}
        place["item_id"] = item["id"]
        if item["type"] == "message":
            yield from _message(item, place)
        elif item["type"] == "reasoning":
            yield from _summary(item, place)
        else:
            yield from _arguments(item, place)
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": f"response.{whole['status']}", "response": whole}


def _empty(item: dict[str, Any]) -> dict[str, Any]:
    bare = {"message": {"content": []}, "reasoning": {"summary": []}, "function_call": {"arguments": ""}}[item["type"]]
    begun = item | bare
    if item["type"] != "reasoning":
        begun["status"] = "in_progress"
    return begun


def _message(item: dict[str, Any], place: dict[str, Any]) -> Iterator[dict[str, Any]]:
    part = item["content"][0]
    place = place | {"content_index": 0}
    yield {"type": "response.content_part.added", **place, "part": part | {"text": ""}}
    for piece in mind.pieces(part["text"]):
        yield {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": [], "obfuscation": "x7Qz"}
    yield {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": part}


def _summary(item: dict[str, Any], place: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for index, part in enumerate(item["summary"]):
        place = place | {"summary_index": index}
        yield {"type": "response.reasoning_summary_part.added", **place, "part": part | {"text": ""}}
        for piece in mind.pieces(part["text"]):
            yield {"type": "response.reasoning_summary_text.delta", **place, "delta": piece}
        yield {"type": "response.reasoning_summary_text.done", **place, "text": part["text"]}
        yield {"type": "response.reasoning_summary_part.done", **place, "part": part}


def _arguments(item: dict[str, Any], place: dict[str, Any]) -> Iterator[dict[str, Any]]:
    text = item["arguments"]
    for start in range(0, len(text), 5):
        yield {"type": "response.function_call_arguments.delta", **place, "delta": text[start : start + 5]}
    yield {"type": "response.function_call_arguments.done", **place, "arguments": text, "name": item["name"]}


def chat(
    head: dict[str, Any],
    text: str,
    calls: list[dict[str, Any]],
    reason: str,
    usage: dict[str, Any] | None,
    script: Script,
) -> Iterator[bytes]:
    """Yield the chunks of a chat completion; with `usage` every chunk has it as null, a last one as it is."""
    end = {} if usage is None else {"usage": None}
    head = head | {"object": "chat.completion.chunk"}

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _data(head | {"choices": [choice]} | end)

    deltas = [{"content": piece} for piece in mind.pieces(text)]
    deltas += [delta for index, call in enumerate(calls) for delta in _call(index, call)]
    yield chunk({"role": "assistant", "content": "" if text else None, "refusal": None})
    for number, delta in enumerate(deltas):
        if "fail" in script and number >= script.number("fail"):
            yield _data({"error": {"message": "The server had an error.", "type": "server_error", "code": None}})
            return
        if "cut" in script and number >= script.number("cut"):
            return
        yield chunk(delta)
    yield chunk({}, reason)
    if usage is not None:
        yield _data(head | {"choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _call(index: int, call: dict[str, Any]) -> list[dict[str, Any]]:
    function, text = call["function"], call["function"]["arguments"]
    begun = {"index": index, **call, "function": {"name": function["name"], "arguments": ""}}
    pieces = [text[start : start + 6] for start in range(0, len(text), 6)]
    return [
        {"tool_calls": [begun]},
        *({"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in pieces),
    ]


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
