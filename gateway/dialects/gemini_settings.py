"""Pure: the parameters of a request as Gemini's settings: `generationConfig` and what stands beside it.

Responsible for names, limits and ranges of parameters, for how a model is told to think, and for reporting what was
left out by chat completions' names. Knows a model by its facts only. Neighbour: `gemini_encode.py`.

Source: https://ai.google.dev/api/generate-content#v1beta.GenerationConfig,
https://ai.google.dev/gemini-api/docs/thinking (2026-11).
"""

from typing import Any

import msgspec

from gateway.dialects import blocks, gemini_schema
from gateway.dialects.gemini import either
from gateway.dialects.gemini_answer import Object

_MAX_STOPS = 5
_MAX_ANSWERS = 8
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}
_MAX_BUDGET = 24576
# The least that every model takes, and the least of those that cannot stop thinking.
_MIN_BUDGET = 512
_LEAST_BUDGET = 128
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_LEVELS = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "XHIGH", "max": "XHIGH"}
# What a model by levels knows if the catalogue does not say.
_USUAL_EFFORTS = ("minimal", "low", "medium", "high")
_TIERS = {"default": "standard", "standard": "standard", "flex": "flex", "priority": "priority", "fast": "priority"}
_MODALITIES = {"text": "TEXT", "image": "IMAGE"}
_SEED_BITS = 0x7FFFFFFF
# Google's own parameters that its clients of OpenAI's SDK put beside the others.
_BESIDE = {"safety_settings": "safetySettings", "cached_content": "cachedContent"}
# Left out without a word: they change nothing of the answer.
_SILENT = frozenset({"stream_options", "extra_body", "google", "metadata", "prompt_cache_key", "safety_identifier"})


def takes_json_schema(model: blocks.Facts) -> bool:
    """Tell whether a model takes raw JSON Schema: those that think do (Gemini 2.5 and later)."""
    return model.thinking != "none" or "thinking" in model.capabilities


class Settings:
    """The settings of one request. What is left out goes to `dropped`."""

    def __init__(self, request: blocks.Request, order: blocks.Order, dropped: list[str]) -> None:
        self._request = request
        self._order = order
        self._model = order.model
        self._dropped = dropped
        self._format = request.format
        self._google = _google(request)

    def written(self) -> Object:
        """Return `generationConfig`. Raises: blocks.Unsupported."""
        request = self._request
        config: Object = {}
        if request.n is not None and request.n > 1:
            config["candidateCount"] = self._answers(request.n)
        self._put(config, "temperature", "temperature", request.temperature)
        self._put(config, "topP", "top_p", request.top_p)
        self._put(config, "topK", "top_k", request.top_k)
        self._put(config, "presencePenalty", "presence_penalty", request.presence_penalty)
        self._put(config, "frequencyPenalty", "frequency_penalty", request.frequency_penalty)
        self._put(config, "seed", "seed", request.seed & _SEED_BITS if request.seed is not None else None)
        self._put(config, "stopSequences", "stop", self._stops())
        if request.logprobs:
            self._put(config, "responseLogprobs", "logprobs", True)
            if "responseLogprobs" in config:
                self._put(config, "logprobs", "top_logprobs", request.top_logprobs)
        if (limit := self._limit()) is not None:
            config["maxOutputTokens"] = limit
        self._write_format(config)
        self._write_modalities(config)
        if thinking := self._thinking():
            config["thinkingConfig"] = thinking
        self._report()
        return config

    def beside(self) -> Object:
        """Return what stands beside `generationConfig`."""
        found = {place: self._google[name] for name, place in _BESIDE.items() if self._google.get(name) is not None}
        tier = _TIERS.get(self._request.service_tier or "")
        if tier is not None:
            if self._order.credits and {"service_tier", "serviceTier"} & self._order.repriced_by:
                self._dropped.append("service_tier")
            else:
                found["serviceTier"] = tier
        return found

    def format_hint(self, *, has_functions: bool) -> str | None:
        """Return in words what format is wanted where functions rule it out as a setting; it is none then.

        Models before Gemini 3 refuse JSON output together with functions.
        """
        wanted = self._format
        if wanted is None or not has_functions or self._model.thinking == "level":
            return None
        self._format = None
        self._dropped.append("response_format")
        if wanted.schema is None:
            return "Answer with a JSON object and nothing else, unless you call a function."
        schema = msgspec.json.encode(wanted.schema).decode()
        return f"Unless you call a function, answer with JSON that fits this schema, and nothing else:\n{schema}"

    def _put(self, config: Object, place: str, name: str, value: object) -> None:
        if value is None or value == []:
            return
        if name in self._model.unsupported:
            self._dropped.append(name)
        else:
            config[place] = value

    def _answers(self, n: int) -> int:
        """Return how many answers to ask for. Raises: blocks.Unsupported."""
        if self._request.stream:
            raise blocks.Unsupported("n", "Gemini streams one answer at a time: ask without stream, or for n = 1.")
        if "n" in self._model.unsupported:
            raise blocks.Unsupported("n", "This model gives one answer at a time: ask for n = 1.")
        if n > _MAX_ANSWERS:
            raise blocks.Unsupported("n", f"Gemini gives at most {_MAX_ANSWERS} answers at a time.")
        return n

    def _stops(self) -> list[str]:
        stops = [stop for stop in self._request.stop if stop]
        if len(stops) > _MAX_STOPS:
            self._dropped.append("stop")
        return stops[:_MAX_STOPS]

    def _limit(self) -> int | None:
        limit = self._order.max_output if self._order.max_output is not None else self._request.max_output
        most = self._model.max_output_tokens
        return limit if limit is None or most is None else min(limit, most)

    def _write_format(self, config: Object) -> None:
        wanted = self._format
        if wanted is None:
            return
        if "response_format" in self._model.unsupported:
            self._dropped.append("response_format")
            return
        config["responseMimeType"] = "application/json"
        if wanted.schema and takes_json_schema(self._model):
            config["responseJsonSchema"] = gemini_schema.raw(wanted.schema)
        elif wanted.schema:
            config["responseSchema"] = gemini_schema.to_subset(wanted.schema)

    def _write_modalities(self, config: Object) -> None:
        wanted = self._request.modalities
        if not wanted or wanted == ["text"]:
            return
        if foreign := [kind for kind in wanted if kind not in _MODALITIES]:
            raise blocks.Unsupported("modalities", f"This model cannot answer with {foreign[0][:50]} here.")
        if self._order.credits and "modalities" in self._order.repriced_by:
            self._dropped.append("modalities")
            return
        config["responseModalities"] = [_MODALITIES[kind] for kind in wanted]

    def _report(self) -> None:
        request = self._request
        given = {
            "verbosity": request.verbosity,
            "user": request.user,
        }
        self._dropped += [name for name, value in given.items() if value]
        known = {*_SILENT, *_BESIDE, *self._order.ours}
        self._dropped += [name for name in request.extra if name not in known]

    # --- Thinking

    def _thinking(self) -> Object | None:
        """Return `thinkingConfig`: a budget or a level, and whether thoughts are shown."""
        own = self._google.get("thinking_config") or self._google.get("thinkingConfig")
        if isinstance(own, dict) and self._model.thinking in ("budget", "level"):
            return own
        reasoning = self._request.reasoning
        if reasoning is None:
            return None
        if self._model.thinking not in ("budget", "level") or "reasoning_effort" in self._model.unsupported:
            if reasoning.effort != "none" and reasoning.mode != "disabled":
                self._dropped.append("reasoning_effort")
            return None
        effort = "none" if reasoning.mode == "disabled" else reasoning.effort
        config: Object = self._budget(effort) if self._model.thinking == "budget" else self._level(effort)
        if effort != "none" and reasoning.visible is not False:
            config["includeThoughts"] = True
        return config

    def _budget(self, effort: str | None) -> Object:
        asked = self._request.reasoning
        budget = asked.budget if asked is not None else None
        if effort == "none":
            efforts = self._model.efforts
            return {"thinkingBudget": _LEAST_BUDGET if efforts and "none" not in efforts else 0}
        if budget is not None:
            return {"thinkingBudget": max(min(budget, _MAX_BUDGET), _MIN_BUDGET)}
        if effort is None:
            return {"thinkingBudget": -1}  # as much as the model finds good
        return {"thinkingBudget": _BUDGETS.get(effort, _BUDGETS["medium"])}

    def _level(self, effort: str | None) -> Object:
        asked = self._request.reasoning
        if effort is None and asked is not None and asked.budget is not None:
            effort = _effort_of(asked.budget)
        if effort is None:
            return {}
        return {"thinkingLevel": _LEVELS[_nearest(effort, self._model.efforts or _USUAL_EFFORTS)]}


def _effort_of(budget: int) -> str:
    """Return the effort that a budget of tokens comes to."""
    return "low" if budget <= 2048 else "medium" if budget <= 8192 else "high"


def _nearest(effort: str, known: tuple[str, ...]) -> str:
    """Return the greatest effort known that is not above the one asked for; the least where all are above it."""
    usable = [each for each in known if each in _LEVELS] or list(_USUAL_EFFORTS)
    wanted = _EFFORTS.index(effort) if effort in _EFFORTS else _EFFORTS.index("medium")
    below = [each for each in usable if _EFFORTS.index(each) <= wanted]
    return max(below, key=_EFFORTS.index) if below else min(usable, key=_EFFORTS.index)


def _google(request: blocks.Request) -> dict[str, Any]:
    """Return Google's own parameters of a chat completion: `extra_body.google`, as its documentation puts them.

    https://ai.google.dev/gemini-api/docs/openai#extra-body (2026-11)
    """
    outer = request.extra.get("extra_body")
    found = (outer if isinstance(outer, dict) else request.extra).get("google")
    beside = {name: request.extra[name] for name in _BESIDE if name in request.extra}
    if not isinstance(found, dict):
        return beside
    return beside | {name: either(found, name) for name in ("thinking_config", *_BESIDE) if name in found}
