"""OpenAI's endpoints beside chat: embeddings, moderations, sound, pictures and plain completions, as calls like others.

Translates in, makes one domain call, translates out: never routes, pays or talks to a provider itself. Neighbours:
`gateway.call` (the life of a call), `dialects.openai_rest` (what differs from endpoint to endpoint).
"""

from collections.abc import Mapping
from typing import Any

from django.http import HttpResponseBase

from gateway import credentials, params
from gateway.api import CallView, GatewayView
from gateway.call import Call
from gateway.dialects import openai_chat, openai_completions, openai_rest, wire
from gateway.dialects.openai_rest import Operation
from gateway.dialects.registry import Client, Errors
from gateway.providers import catalog
from respan.api import CallRequest

DIALECT = "openai_chat"
# What these endpoints call a prompt is not Respan's parameter of that name.
KEEPS = frozenset({"prompt"})
_EVENT_ERRORS = Errors(
    openai_chat.error, openai_rest.stream_error, openai_chat.error_message, openai_chat.is_error_body
)
# Sound has no place for an error: its stream breaks off.
_SOUND_ERRORS = Errors(openai_chat.error, openai_rest.broken_off, openai_chat.error_message, openai_chat.is_error_body)


def client(operation: Operation, content_type: str = "") -> Client:
    """Return an operation as a dialect of clients; `content_type` is that of the request, for forms."""

    def read(body: bytes, *, named: wire.Named | None = None) -> openai_rest.Request:
        return operation.read(body, content_type=content_type, named=named)

    def stored(asked: openai_rest.Request) -> bytes:
        return operation.stored(asked, ours=params.OURS - KEEPS)

    return Client(
        id=operation.name,
        dialect=DIALECT,
        operation=operation.name,
        read=read,
        input_text=operation.input_text,
        forward=operation.forward,
        read_json=operation.read_json,
        reader=operation.reader,
        errors=_SOUND_ERRORS if operation.sends else _EVENT_ERRORS,
        log_type=operation.log_type,
        kind=operation.kind,
        sells=operation.sells,
        writes=False,
        counts=operation.sells,
        stored=stored,
        kept=operation.kept,
        keeps=KEEPS,
        stream_type=operation.stream_type,
    )


COMPLETIONS = Client(
    id="completions",
    dialect=DIALECT,
    operation="completions",
    read=openai_completions.read,
    input_text=openai_completions.input_text,
    forward=openai_completions.forward,
    read_json=openai_completions.read_json,
    reader=lambda asked: openai_completions.StreamReader(include_usage=asked.include_usage),
    errors=Errors(openai_chat.error, openai_chat.stream_error, openai_chat.error_message, openai_chat.is_error_body),
    log_type=openai_completions.LOG_TYPE,
    kind=openai_completions.KIND,
    sells=False,
    keeps=frozenset({"prompt", "echo"}),
)


class OperationView(GatewayView):
    """A view of one operation: `OperationView.as_view(operation=openai_rest.EMBEDDINGS)`."""

    operation: Operation = openai_rest.EMBEDDINGS

    def __init__(self, **initkwargs: Any) -> None:
        super().__init__(**initkwargs)
        self._client = client(self.operation)

    async def post(self, request: CallRequest) -> HttpResponseBase:
        speaks = self._client
        if self.operation.is_form:
            speaks = client(self.operation, request.META.get("CONTENT_TYPE", ""))
        named = await _usual_model(self.operation.kind, request.caller.organization_id)
        return await Call(request.caller, request.META, request.body, client=speaks, named=named).answer()


class Completions(CallView):
    """POST /api/completions."""

    client = COMPLETIONS


OPERATION_PATHS: Mapping[str, Operation] = {
    r"embeddings": openai_rest.EMBEDDINGS,
    r"moderations": openai_rest.MODERATIONS,
    r"audio/speech": openai_rest.SPEECH,
    r"audio/transcriptions?": openai_rest.TRANSCRIPTIONS,
    r"audio/translations?": openai_rest.TRANSLATIONS,
    r"images/generations": openai_rest.IMAGES,
    r"images/edits": openai_rest.IMAGE_EDITS,
    r"images/variations": openai_rest.IMAGE_VARIATIONS,
}

# Kinds of which OpenAI's own clients may leave the model out.
_MAY_BE_UNNAMED = frozenset({"moderation", "image"})


async def _usual_model(kind: str, organization_id: int) -> wire.Named | None:
    """Return the model that is meant where a request may name none: the first of the kind that an own key reaches."""
    if kind not in _MAY_BE_UNNAMED:
        return None
    for key in await credentials.usable(organization_id):
        provider = catalog().providers.get(key.provider)
        for model in provider.models.values() if provider else ():
            if model.kind == kind:
                return wire.Named(model.full_name, stream=False)
    return None
