"""The real SDKs behind one small interface, so that one test can ask the same of every client and every model.

A `Speaker` asks in its own dialect with its vendor's own SDK, streams with that SDK's own helper, and tells what it
understood. Nothing is read from the wire here: what an SDK cannot read is a failure. Neighbours: `test_cross.py`.
"""

import base64
import json
from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai
from google import genai
from google.genai import types

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4"
    "//8/w38GIAXDIBKE0DHxgljNBAAO9TXL0Y4OHwAAAABJRU5ErkJggg=="
)
PDF = base64.b64encode(b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF").decode()
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@dataclass
class Question:
    """What is asked: a text, with a picture or a document, with tools, in a form."""

    text: str
    image: bool = False
    pdf: bool = False
    tools: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=lambda: CITY)  # of each tool
    forced: str | None = None  # a tool's name, or "any"
    parallel: bool | None = None
    schema: dict[str, Any] | None = None
    thinks: bool = False
    limit: int = 4000


@dataclass
class Told:
    """What an SDK understood of an answer; `history` is the conversation with it, in the SDK's own objects."""

    text: str
    calls: list[tuple[str, str, dict[str, Any]]]  # id, name, arguments
    thoughts: str
    finish: str
    usage: tuple[int, int]  # tokens in, out, as everybody counts them
    log_id: str
    history: list[Any] = field(repr=False, default_factory=list)
    cached: int = 0


class Speaker:
    """One SDK. `ask` begins a conversation, `answer` goes on with what the tools said, one text for each call."""

    name: str

    def ask(self, model: str, question: Question, *, streamed: bool) -> Told:
        return self._say(model, question, self._turn(question), streamed)

    def answer(self, model: str, question: Question, told: Told, results: list[str], *, streamed: bool) -> Told:
        return self._say(model, question, [*told.history, *self._results(told, results)], streamed)

    def close(self) -> None:
        raise NotImplementedError

    def _turn(self, question: Question) -> list[Any]:
        raise NotImplementedError

    def _results(self, told: Told, results: list[str]) -> list[Any]:
        raise NotImplementedError

    def _say(self, model: str, question: Question, history: list[Any], streamed: bool) -> Told:
        raise NotImplementedError


class Chat(Speaker):
    """openai, chat completions."""

    name = "chat"

    def __init__(self, base_url: str, key: str) -> None:
        self.client = openai.OpenAI(base_url=f"{base_url}/api/", api_key=key, max_retries=0)

    def close(self) -> None:
        self.client.close()

    def _turn(self, question: Question) -> list[Any]:
        content: list[Any] = [{"type": "text", "text": question.text}]
        if question.image:
            content.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}})
        if question.pdf:
            file = {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}
            content.append({"type": "file", "file": file})
        said = content if len(content) > 1 else question.text
        return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": said}]

    def _results(self, told: Told, results: list[str]) -> list[Any]:
        pairs = zip(told.calls, results, strict=True)
        return [{"role": "tool", "tool_call_id": id, "content": result} for (id, _, _), result in pairs]

    def _options(self, question: Question) -> dict[str, Any]:
        options: dict[str, Any] = {"max_completion_tokens": question.limit}
        if question.tools:
            options["tools"] = [
                {
                    "type": "function",
                    "function": {"name": name, "description": "Look it up", "parameters": question.parameters},
                }
                for name in question.tools
            ]
        if question.forced:
            named = {"type": "function", "function": {"name": question.forced}}
            options["tool_choice"] = "required" if question.forced == "any" else named
        if question.parallel is not None:
            options["parallel_tool_calls"] = question.parallel
        if question.schema:
            form = {"name": "person", "schema": question.schema, "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": form}
        if question.thinks:
            options["reasoning_effort"] = "medium"
        return options

    def _say(self, model: str, question: Question, history: list[Any], streamed: bool) -> Told:
        options = self._options(question)
        create = self.client.chat.completions
        if streamed:
            with create.stream(model=model, messages=history, stream_options={"include_usage": True}, **options) as it:
                for _ in it:
                    pass
                log_id, whole = it._response.headers["x-respan-log-id"], it.get_final_completion()
        else:
            raw = create.with_raw_response.create(model=model, messages=history, **options)
            log_id, whole = raw.headers["x-respan-log-id"], raw.parse()
        message = whole.choices[0].message
        calls = [(c.id, c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls or []]
        told = message.model_dump(exclude_none=True, exclude={"parsed": True, "tool_calls": {"__all__": {"index"}}})
        for call in told.get("tool_calls", []):
            call["function"].pop("parsed_arguments", None)
        return Told(
            text=message.content or "",
            calls=calls,
            thoughts=told.get("reasoning_content", ""),
            finish=whole.choices[0].finish_reason,
            usage=(whole.usage.prompt_tokens, whole.usage.completion_tokens),
            log_id=log_id,
            history=[*history, told],
            cached=whole.usage.prompt_tokens_details.cached_tokens or 0 if whole.usage.prompt_tokens_details else 0,
        )


class Responses(Speaker):
    """openai, the Responses API; nothing is stored, so the conversation is sent again with its encrypted thoughts."""

    name = "responses"

    def __init__(self, base_url: str, key: str) -> None:
        self.client = openai.OpenAI(base_url=f"{base_url}/api/", api_key=key, max_retries=0)

    def close(self) -> None:
        self.client.close()

    def _turn(self, question: Question) -> list[Any]:
        content: list[Any] = [{"type": "input_text", "text": question.text}]
        if question.image:
            content.append({"type": "input_image", "detail": "auto", "image_url": f"data:image/png;base64,{PNG}"})
        if question.pdf:
            data = f"data:application/pdf;base64,{PDF}"
            content.append({"type": "input_file", "filename": "a.pdf", "file_data": data})
        return [{"role": "user", "content": content}]

    def _results(self, told: Told, results: list[str]) -> list[Any]:
        pairs = zip(told.calls, results, strict=True)
        return [{"type": "function_call_output", "call_id": id, "output": result} for (id, _, _), result in pairs]

    def _options(self, question: Question) -> dict[str, Any]:
        options: dict[str, Any] = {
            "instructions": "Be brief.",
            "store": False,
            "include": ["reasoning.encrypted_content"],
            "max_output_tokens": question.limit,
        }
        if question.tools:
            about = {
                "type": "function",
                "description": "Look it up",
                "parameters": question.parameters,
                "strict": False,
            }
            options["tools"] = [about | {"name": name} for name in question.tools]
        if question.forced:
            named = {"type": "function", "name": question.forced}
            options["tool_choice"] = "required" if question.forced == "any" else named
        if question.parallel is not None:
            options["parallel_tool_calls"] = question.parallel
        if question.schema:
            form = {"type": "json_schema", "name": "person", "schema": question.schema, "strict": True}
            options["text"] = {"format": form}
        if question.thinks:
            options["reasoning"] = {"effort": "medium", "summary": "auto"}
        return options

    def _say(self, model: str, question: Question, history: list[Any], streamed: bool) -> Told:
        options = self._options(question)
        if streamed:
            with self.client.responses.stream(model=model, input=history, **options) as stream:
                for _ in stream:
                    pass
                log_id, whole = stream._response.headers["x-respan-log-id"], stream.get_final_response()
        else:
            raw = self.client.responses.with_raw_response.create(model=model, input=history, **options)
            log_id, whole = raw.headers["x-respan-log-id"], raw.parse()
        items = [item.model_dump(exclude_none=True) for item in whole.output]
        for item in items:
            item.pop("parsed_arguments", None)
            for part in item.get("content", []):
                part.pop("parsed", None)
        calls = [
            (item["call_id"], item["name"], json.loads(item["arguments"]))
            for item in items
            if item["type"] == "function_call"
        ]
        summaries = [part["text"] for item in items if item["type"] == "reasoning" for part in item["summary"]]
        finish = "tool_calls" if calls else "stop"
        if whole.status == "incomplete":
            finish = {"max_output_tokens": "length"}.get(whole.incomplete_details.reason, "content_filter")
        assert whole.status in ("completed", "incomplete")
        return Told(
            text=whole.output_text,
            calls=calls,
            thoughts="".join(summaries),
            finish=finish,
            usage=(whole.usage.input_tokens, whole.usage.output_tokens),
            log_id=log_id,
            history=[*history, *items],
            cached=whole.usage.input_tokens_details.cached_tokens,
        )


class Messages(Speaker):
    """anthropic, messages."""

    name = "messages"

    def __init__(self, base_url: str, key: str) -> None:
        self.client = anthropic.Anthropic(base_url=f"{base_url}/api/anthropic/", api_key=key, max_retries=0)

    def close(self) -> None:
        self.client.close()

    def _turn(self, question: Question) -> list[Any]:
        content: list[Any] = [{"type": "text", "text": question.text}]
        if question.image:
            source = {"type": "base64", "media_type": "image/png", "data": PNG}
            content.insert(0, {"type": "image", "source": source})
        if question.pdf:
            source = {"type": "base64", "media_type": "application/pdf", "data": PDF}
            content.insert(0, {"type": "document", "source": source, "title": "a.pdf"})
        return [{"role": "user", "content": content if len(content) > 1 else question.text}]

    def _results(self, told: Told, results: list[str]) -> list[Any]:
        pairs = zip(told.calls, results, strict=True)
        content = [{"type": "tool_result", "tool_use_id": id, "content": result} for (id, _, _), result in pairs]
        return [{"role": "user", "content": content}]

    def _options(self, question: Question) -> dict[str, Any]:
        options: dict[str, Any] = {"max_tokens": question.limit, "system": "Be brief."}
        if question.tools:
            about = {"description": "Look it up", "input_schema": question.parameters}
            options["tools"] = [about | {"name": name} for name in question.tools]
        if question.forced:
            named = {"type": "tool", "name": question.forced}
            options["tool_choice"] = {"type": "any"} if question.forced == "any" else named
        if question.parallel is not None:
            choice = options.setdefault("tool_choice", {"type": "auto"})
            choice["disable_parallel_tool_use"] = not question.parallel
        if question.schema:
            options["output_config"] = {"format": {"type": "json_schema", "schema": question.schema}}
        if question.thinks:
            options["thinking"] = self._thinking()
        return options

    def _thinking(self) -> dict[str, Any]:
        return {"type": "enabled", "budget_tokens": 2000}

    def _say(self, model: str, question: Question, history: list[Any], streamed: bool) -> Told:
        options = self._options(question)
        if streamed:
            with self.client.messages.stream(model=model, messages=history, **options) as stream:
                for _ in stream:
                    pass
                log_id, whole = stream.response.headers["x-respan-log-id"], stream.get_final_message()
        else:
            raw = self.client.messages.with_raw_response.create(model=model, messages=history, **options)
            log_id, whole = raw.headers["x-respan-log-id"], raw.parse()
        usage = whole.usage
        cached = usage.cache_read_input_tokens or 0
        return Told(
            text="".join(block.text for block in whole.content if block.type == "text"),
            calls=[(block.id, block.name, dict(block.input)) for block in whole.content if block.type == "tool_use"],
            thoughts="".join(block.thinking for block in whole.content if block.type == "thinking"),
            finish=_ANTHROPIC_ENDS[whole.stop_reason],
            usage=(usage.input_tokens + cached + (usage.cache_creation_input_tokens or 0), usage.output_tokens),
            log_id=log_id,
            history=[*history, {"role": "assistant", "content": _bare(whole.content)}],
            cached=cached,
        )


def _bare(content: list[Any]) -> list[Any]:
    """Return blocks as the API takes them back: without what the SDK's helpers added."""
    blocks = [block.model_dump(exclude_none=True) for block in content]
    return [{k: v for k, v in block.items() if k not in ("parsed_output", "toolset_name")} for block in blocks]


class AdaptiveMessages(Messages):
    """anthropic, as it is used with the models that decide themselves how much they think."""

    def _thinking(self) -> dict[str, Any]:
        return {"type": "adaptive", "display": "summarized"}


class Google(Speaker):
    """google-genai."""

    name = "google"

    def __init__(self, base_url: str, key: str) -> None:
        options = types.HttpOptions(base_url=f"{base_url}/api/google/gemini", retry_options=_ONCE)
        self.client = genai.Client(api_key=key, http_options=options)

    def close(self) -> None:
        self.client.close()

    def _turn(self, question: Question) -> list[Any]:
        parts = [types.Part.from_text(text=question.text)]
        if question.image:
            parts.append(types.Part.from_bytes(data=base64.b64decode(PNG), mime_type="image/png"))
        if question.pdf:
            parts.append(types.Part.from_bytes(data=base64.b64decode(PDF), mime_type="application/pdf"))
        return [types.Content(role="user", parts=parts)]

    def _results(self, told: Told, results: list[str]) -> list[Any]:
        parts = []
        for (id, name, _), result in zip(told.calls, results, strict=True):
            response = types.FunctionResponse(name=name, response={"result": result}, id=id or None)
            parts.append(types.Part(function_response=response))
        return [types.Content(role="user", parts=parts)]

    def _config(self, question: Question) -> types.GenerateContentConfig:
        config = types.GenerateContentConfig(system_instruction="Be brief.", max_output_tokens=question.limit)
        config.automatic_function_calling = types.AutomaticFunctionCallingConfig(disable=True)
        if question.tools:
            declared = [
                types.FunctionDeclaration(
                    name=name, description="Look it up", parameters_json_schema=question.parameters
                )
                for name in question.tools
            ]
            config.tools = [types.Tool(function_declarations=declared)]
        if question.forced:
            names = None if question.forced == "any" else [question.forced]
            calling = types.FunctionCallingConfig(mode="ANY", allowed_function_names=names)
            config.tool_config = types.ToolConfig(function_calling_config=calling)
        if question.schema:
            config.response_mime_type = "application/json"
            config.response_json_schema = question.schema
        if question.thinks:
            config.thinking_config = types.ThinkingConfig(include_thoughts=True)
        return config

    def _say(self, model: str, question: Question, history: list[Any], streamed: bool) -> Told:
        ask = {"model": model, "contents": history, "config": self._config(question)}
        models = self.client.models
        answers = list(models.generate_content_stream(**ask)) if streamed else [models.generate_content(**ask)]
        usage = answers[-1].usage_metadata
        candidates = [answer.candidates[0] for answer in answers if answer.candidates]
        parts = [part for one in candidates if one.content for part in one.content.parts or []]
        calls = [part.function_call for part in parts if part.function_call]
        reasons = [one.finish_reason.value for one in candidates if one.finish_reason]
        finish = _GOOGLE_ENDS[reasons[-1]] if reasons else "content_filter"
        return Told(
            text="".join(part.text or "" for part in parts if not part.thought),
            calls=[(call.id or "", call.name, dict(call.args or {})) for call in calls],
            thoughts="".join(part.text or "" for part in parts if part.thought),
            finish="tool_calls" if calls and finish == "stop" else finish,
            usage=(usage.prompt_token_count, (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)),
            log_id=answers[0].sdk_http_response.headers["x-respan-log-id"],
            history=[*history, types.Content(role="model", parts=parts)],
            cached=usage.cached_content_token_count or 0,
        )


_ANTHROPIC_ENDS = {"end_turn": "stop", "max_tokens": "length", "tool_use": "tool_calls", "refusal": "content_filter"}
_GOOGLE_ENDS = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "PROHIBITED_CONTENT": "content_filter",
    "SAFETY": "content_filter",
}
_ONCE = types.HttpRetryOptions(attempts=1)
SPEAKERS = {speaker.name: speaker for speaker in (Chat, Responses, Messages, Google)}
