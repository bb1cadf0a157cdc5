"""The gateway's API routes: with and without `/api`, with and without `/v1`, with and without a trailing slash.

Served by the lean handler of `respan/asgi.py`; never redirects (a redirected POST loses its body).
"""

from typing import Any

from django.urls import re_path

from gateway import api, counting_api, files_api, raw_relay, rest_api

_PREFIX = r"^(?:api/)?(?:v1/)?"
_ANTHROPIC = r"^(?:api/)?(?:anthropic/)?v1/"
# `google-genai` writes `models/{model}`, for Vertex with project and location before it.
_GOOGLE = (
    r"^(?:api/)?google/(?:gemini|vertexai)/v1(?:beta1?|alpha)?/"
    r"(?:projects/[^/]+/locations/[^/]+/)?(?:publishers/[^/]+/)?"
)
_FILE = r"files/(?P<file_id>[A-Za-z0-9_.-]{1,200})"

# Coroutine functions: Django awaits them, its type stubs do not know.
_chat_completions: Any = api.ChatCompletions.as_view()
_responses: Any = api.Responses.as_view()
_completions: Any = rest_api.Completions.as_view()
_messages: Any = api.Messages.as_view()
_generate_content: Any = api.GenerateContent.as_view()
_count_tokens: Any = counting_api.CountTokens.as_view()
_anthropic_models: Any = counting_api.AnthropicModels.as_view()
_embed_content: Any = api.EmbedContent.as_view()
_gemini_count_tokens: Any = counting_api.GeminiCountTokens.as_view()
_gemini_models: Any = counting_api.GeminiModels.as_view()
_files: Any = files_api.Files.as_view()
_file: Any = files_api.File.as_view()
_file_content: Any = files_api.FileContent.as_view()
_models: Any = api.Models.as_view()
_public_models: Any = api.PublicModels.as_view()
_raw_chat_completions: Any = raw_relay.RawChatCompletions.as_view()


def _operation(operation: Any) -> Any:
    return rest_api.OperationView.as_view(operation=operation)


urlpatterns = [
    re_path(_PREFIX + r"chat/completions/?$", _chat_completions, name="chat-completions"),
    re_path(_PREFIX + r"responses/?$", _responses, name="responses"),
    re_path(_PREFIX + r"completions/?$", _completions, name="completions"),
    re_path(_ANTHROPIC + r"messages/?$", _messages, name="messages"),
    re_path(
        _GOOGLE + r"models/(?P<model>.{1,300}):(?P<operation>generateContent|streamGenerateContent)/?$",
        _generate_content,
        name="generate-content",
    ),
    re_path(_ANTHROPIC + r"messages/count_tokens/?$", _count_tokens, name="count-tokens"),
    re_path(
        _GOOGLE + r"models/(?P<model>.{1,300}):(?P<operation>embedContent|batchEmbedContents)/?$",
        _embed_content,
        name="embed-content",
    ),
    re_path(_GOOGLE + r"models/(?P<model>.{1,300}):countTokens/?$", _gemini_count_tokens, name="gemini-count-tokens"),
    re_path(r"^(?:api/)?anthropic/v1/models/?$", _anthropic_models, name="anthropic-models"),
    re_path(r"^(?:api/)?anthropic/v1/models/(?P<model>.{1,200}?)/?$", _anthropic_models, name="anthropic-model"),
    re_path(_GOOGLE + r"models/?$", _gemini_models, name="gemini-models"),
    *(
        re_path(f"{_PREFIX}{path}/?$", _operation(operation), name=operation.name.replace(".", "-"))
        for path, operation in rest_api.OPERATION_PATHS.items()
    ),
    re_path(_PREFIX + r"files/?$", _files, name="files"),
    re_path(_PREFIX + _FILE + r"/?$", _file, name="file"),
    re_path(_PREFIX + _FILE + r"/content/?$", _file_content, name="file-content"),
    re_path(_PREFIX + r"models/?$", _models, name="models"),
    re_path(_PREFIX + r"models/public/?$", _public_models, name="models-public"),
    re_path(r"^(?:api/)?(?P<provider>[a-z0-9_-]{1,40})/v1/chat/completions/?$", _raw_chat_completions, name="raw-chat"),
]
