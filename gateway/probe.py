"""The *Test* button: one tiny real chat call with a provider key, told in plain words.

Goes the way of every call (`upstream` over the safe transport), through a connection of its own that no other call can
meet, and costs at most a few output tokens. Never writes anything and never repeats a key, not even the fragments that
providers put into their messages. Neighbours: `credentials.py` (the key, and where the outcome is kept), `views.py`,
`admin.py`.
"""

import asyncio
import re
import time
from dataclasses import dataclass

import httpx
import msgspec

from gateway import outgoing, upstream
from gateway.credentials import Secret, Stored
from gateway.dialects import blocks
from gateway.dialects.registry import OPENAI_CHAT, TARGETS
from gateway.outgoing import Way
from gateway.providers import Model, Provider, catalog
from respan import outbound
from respan.errors import Error

TIMEOUT_S = 15.0
# Enough for a word; a model that thinks first may stop within them, which proves the key all the same.
MAX_OUTPUT_TOKENS = 16
PROMPT = "Reply with the single word: ok"
_MAX_BYTES = 256 * 1024
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a test call found: `note` is the model's answer, or what went wrong and what to do."""

    passed: bool
    latency_ms: int
    note: str
    model: str


class _Failed(Exception):
    """The test is over; the message is for people."""


def probe(stored: Stored, *, policy: outbound.Policy, model: str = "") -> Outcome:
    """Make the test call, with `model` or the cheapest one the key may use. Never raises for a provider's fault.

    Runs in an event loop of its own, so that its connection is its own too.
    """
    return asyncio.run(_probe_and_close(stored, policy, model))


async def _probe_and_close(stored: Stored, policy: outbound.Policy, model: str) -> Outcome:
    try:
        return await _probe(stored, policy, model)
    finally:
        await outbound.close()


async def _probe(stored: Stored, policy: outbound.Policy, model: str) -> Outcome:
    started = time.monotonic()
    asked = model
    try:
        call = _Call(_get_provider(stored), stored, stored.secret(), outbound.transport(policy), started + TIMEOUT_S)
        chosen = await call.choose(model)
        asked = chosen.id
        started = time.monotonic()
        note, passed = await call.chat(chosen), True
    except _Failed as failure:
        note, passed = str(failure), False
    except Error as error:
        note, passed = error.message, False
    return Outcome(passed, round((time.monotonic() - started) * 1000), note, asked)


def _get_provider(stored: Stored) -> Provider:
    provider = catalog().providers.get(stored.provider)
    if provider is None:
        raise _Failed(f"The catalogue has no provider {stored.provider!r} any more.")
    return provider


@dataclass(frozen=True, slots=True)
class _Call:
    provider: Provider
    stored: Stored
    secret: Secret
    transport: outbound.Transport
    deadline: float

    async def choose(self, name: str) -> Model:
        """Return the model to ask: the named one, else the cheapest allowed, else the first the server lists."""
        if name:
            return self._known(name)
        allowed = [
            model
            for model in self.provider.models.values()
            if model.kind == "chat" and "needs_responses" not in model.capabilities and self.stored.allows(model.id)
        ]
        if allowed:
            return min(allowed, key=_price)
        if self.stored.models:
            return self.provider.unlisted(self.stored.models[0])
        return self.provider.unlisted(await self._first_listed())

    def _known(self, name: str) -> Model:
        # As `credentials` keeps allowed models: under their own ids.
        for model in catalog().find(name):
            if model.provider == self.provider.id:
                return model
        return self.provider.unlisted(name)

    async def _first_listed(self) -> str:
        status, body = await self._listed()
        try:
            first = msgspec.json.decode(body)["data"][0]["id"]
        except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError):
            first = None
        if status != 200 or not isinstance(first, str) or not first:
            raise _Failed("The server does not list its models: name one to test with.")
        return first

    async def chat(self, model: Model) -> str:
        """Ask the model and return its answer. Raises: _Failed, Error."""
        request = blocks.Request(
            dialect="openai_chat",
            model=model.upstream,
            messages=[blocks.Message("user", [blocks.Text(PROMPT)])],
            max_output=MAX_OUTPUT_TOKENS,
        )
        target = TARGETS[self.provider.dialect]
        sent = target.encode(request, outgoing.order(OPENAI_CHAT, self.provider, model, credits=False, max_output=None))
        status, body = await self._send(
            await outgoing.sealed(
                sent,
                way=Way(self.provider.dialect, self.stored.effective_base_url().rstrip("/"), is_passed=False),
                provider=self.provider,
                secret=self.secret.reveal(),
                headers={},
                stream=False,
                transport=self.transport,
            )
        )
        if status != 200:
            raise _Failed(self._explain(status, body, model))
        answer = target.answer(body)
        if answer.error is not None:
            raise _Failed(f"{self.provider.name} answered, but with nothing a model says. Check the base URL.")
        text = "".join(block.text for block in answer.blocks if isinstance(block, blocks.Text))
        return self._clean(text)[:200] or f"{model.id} answered, within {MAX_OUTPUT_TOKENS} tokens without text."

    async def _listed(self) -> tuple[int, bytes]:
        headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "respan"}
        if self.secret:
            headers["authorization"] = f"Bearer {self.secret.reveal()}"
        return await self._send(httpx.Request("GET", self.stored.effective_base_url() + "/models", headers=headers))

    async def _send(self, request: httpx.Request) -> tuple[int, bytes]:
        left = max(self.deadline - time.monotonic(), 0.1)
        request.extensions["timeout"] = {"connect": 5.0, "first_byte": left, "read": left, "total": left}
        response = await upstream.send(request, transport=self.transport, deadline=self.deadline)
        return response.status_code, await upstream.read(response, _MAX_BYTES)

    def _explain(self, status: int, body: bytes, model: Model) -> str:
        name = self.provider.name
        said = self._clean(_message(body))[:240]
        quoted = f" It says: {said}" if said else ""
        match status:
            case 401:
                return f"{name} does not accept this key (401).{quoted}"
            case 402:
                return f"{name} wants this account to be paid or topped up (402).{quoted}"
            case 403:
                return f"{name} does not let this key do that (403).{quoted}"
            case 404:
                return f"{name} has no {model.id} for this key, or the base URL is wrong (404).{quoted}"
            case 429:
                return f"{name} accepts the key, but its limit or quota is used up (429).{quoted}"
            case _ if status >= 500:
                return f"{name} has trouble of its own ({status}); try again later.{quoted}"
            case _:
                return f"{name} answered {status}.{quoted}"

    def _clean(self, text: str) -> str:
        """Take the key, and every word that looks like a part of it, out of a provider's text."""
        secret = self.secret.reveal()
        text = " ".join(text.split())
        return _WORD.sub(lambda word: "…" if _betrays(word[0], secret) else word[0], text) if secret else text


def _betrays(word: str, secret: str) -> bool:
    """Tell whether a word shares four characters at an end, or six anywhere, with the key."""
    if secret in word:
        return True
    masked = any(mask in word for mask in ("*", "…", "..."))
    if masked and (secret[:3] in word or secret[-3:] in word):
        return True
    return any(secret[start : start + 6] in word for start in range(max(len(secret) - 5, 0)))


def _price(model: Model) -> int:
    return model.rates.input + model.rates.output if model.rates else 1 << 62


def _message(body: bytes) -> str:
    """Find the words of an error body, whichever shape the provider gives it."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    for _ in range(3):
        if not isinstance(found, dict):
            break
        found = next((found[key] for key in ("error", "message", "detail") if found.get(key)), None)
    return found if isinstance(found, str) else ""
