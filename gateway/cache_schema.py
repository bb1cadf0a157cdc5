"""The management API of the cache in OpenAPI's words: bodies, answers and the shape of a cached answer.

Only read when the document at `/api/schema/` is built (`respan.schema` imports it), never by a request. The shape
mirrors `cache_entries.listed`; tests hold it against real answers. Neighbours: `cache_api.py`.
"""

from functools import partial
from typing import Any, Final

from drf_spectacular.extensions import OpenApiViewExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from rest_framework import serializers
from rest_framework.views import APIView

from gateway import cache_entries
from gateway.api_schema import described
from respan.api import MAX_PAGE, MAX_PAGE_SIZE

TAG: Final = "Caches"


def _text(says: str) -> serializers.CharField:
    return serializers.CharField(help_text=says, allow_null=True)


def _whole(says: str) -> serializers.IntegerField:
    return serializers.IntegerField(help_text=says)


def _number(says: str) -> serializers.FloatField:
    return serializers.FloatField(help_text=says)


def _moment(says: str) -> serializers.DateTimeField:
    return serializers.DateTimeField(help_text=says)


class CachedAnswer(serializers.Serializer[Any]):
    """An answer that is given again to who asks the same."""

    cache_key = _text("Its key, 64 hexadecimal digits.")
    environment = serializers.ChoiceField(["prod", "test"], help_text="The environment of the API key that asked.")
    model = _text("The model that the first call asked for.")
    response_model = _text("The model that answered, as its provider calls it.")
    provider_id = _text("Who answered.")
    customer_identifier = _text("The customer of the first call.")
    prompt_content = _text("The text of the question, its first 2,000 characters.")
    response_content = _text("The text of the answer, its first 2,000 characters.")
    request_content = _text("The first 100 characters of the question.")
    prompt_messages = serializers.ListField(
        child=serializers.DictField(), allow_null=True, help_text="The messages of the question."
    )
    full_response = serializers.DictField(allow_null=True, help_text="The answer in the format it was asked in.")
    is_stream = serializers.BooleanField(help_text="Whether it was streamed first, and those bytes are kept too.")
    hit_count = _whole("How often it was given again.")
    cost = _number("What it cost by the catalogue's prices, USD; each hit saves that.")
    prompt_tokens = _whole("Tokens of the input.")
    completion_tokens = _whole("Tokens of the output.")
    response_time = _number("How long the first call took, seconds.")
    timestamp = _moment("When it was kept.")
    updated_at = _moment("When its end was changed.")
    expiry_date = _moment("Its end.")


class CacheSavings(serializers.Serializer[Any]):
    """What the hits of the listed answers have saved."""

    total_cost = _number("USD, by the catalogue's prices.")
    total_hit_count = _whole("How often an answer was given again.")
    total_tokens = _whole("Tokens, input and output.")
    total_time = _number("Seconds.")


class CacheSummary(CacheSavings):
    """How many answers are kept, and what their hits have saved."""

    total_count = _whole("How many answers match.")


class CachedAnswerPage(serializers.Serializer[Any]):
    """One page of cached answers."""

    count = _whole("How many answers match.")
    next = _text("The address of the next page.")
    previous = _text("The address of the page before.")
    results = CachedAnswer(many=True, help_text="The answers, the newest first.")


class CachedAnswerList(serializers.Serializer[Any]):
    """Cached answers, and what all that match have saved."""

    summary = CacheSavings(help_text="Of all that match, not of this page only.")
    data = CachedAnswerPage(help_text="The page.")  # type: ignore[assignment]


class CacheQuery(serializers.Serializer[Any]):
    """Filters of cached answers."""

    filters = serializers.DictField(required=False, help_text="`{field: {operator, value}}`, or a list for a field.")


class CacheListQuery(CacheQuery):
    """Filters and the page of cached answers."""

    page = serializers.IntegerField(required=False, min_value=1, help_text=f"From 1 to {MAX_PAGE}.")
    page_size = serializers.IntegerField(required=False, min_value=1, help_text=f"At most {MAX_PAGE_SIZE:,}.")


class CacheEnd(serializers.Serializer[Any]):
    """Another end of a cached answer: a moment, or seconds from now. At most 30 days."""

    expiry_date = serializers.DateTimeField(
        required=False, allow_null=True, help_text="The moment; null: as late as possible."
    )
    ttl = serializers.IntegerField(required=False, min_value=0, help_text="Seconds from now.")


class CacheDeleted(serializers.Serializer[Any]):
    """How many cached answers were deleted."""

    deleted_count = _whole("How many were there.")
    success_count = _whole("The same.")
    error_count = _whole("Always 0: all are deleted, or the request is refused.")
    errors = serializers.ListField(  # type: ignore[assignment]
        child=serializers.DictField(), help_text="Always empty."
    )
    message = _text("The same in words.")


_READS: Final = "The key needs the scope “Read logs” and sees its own environment."
_CHANGES: Final = "The key needs the scopes “Read logs” and “Call models”."
_FILTERS: Final = f"Filters: {', '.join(f'`{name}`' for name in cache_entries.FIELDS)}."
_LATE: Final = {"filters": {"expiry_date": {"operator": "gte", "value": ["2026-10-01T00:00:00Z"]}}}
_KEY: Final = [OpenApiParameter("cache_key", str, OpenApiParameter.PATH, description="The key of the answer.")]
_PAGES: Final = [
    OpenApiParameter("page", OpenApiTypes.INT, OpenApiParameter.QUERY, description=f"From 1 to {MAX_PAGE}."),
    OpenApiParameter("page_size", OpenApiTypes.INT, OpenApiParameter.QUERY, description=f"At most {MAX_PAGE_SIZE:,}."),
]


_described = partial(described, TAG)


def _answers(shape: type[serializers.Serializer[Any]], says: str) -> dict[Any, Any]:
    return {200: OpenApiResponse(shape, description=says)}


class _Caches(OpenApiViewExtension):  # type: ignore[no-untyped-call]
    target_class = "gateway.cache_api.Caches"

    def view_replacement(self) -> type[APIView]:
        answers = _answers(CachedAnswerList, "One page of cached answers.")

        class Described(self.target):  # type: ignore[name-defined, misc]
            @_described("listCaches", "List cached answers", _READS, answers, parameters=_PAGES)
            def get(self, request: Any) -> Any: ...

            @_described(
                "searchCaches",
                "List cached answers, with filters",
                f"{_READS} {_FILTERS}",
                answers,
                request=CacheListQuery,
                example=_LATE,
            )
            def post(self, request: Any) -> Any: ...

        return Described


class _CachesSummary(OpenApiViewExtension):  # type: ignore[no-untyped-call]
    target_class = "gateway.cache_api.CachesSummary"

    def view_replacement(self) -> type[APIView]:
        answers = _answers(CacheSummary, "The sums.")

        class Described(self.target):  # type: ignore[name-defined, misc]
            @_described("sumCaches", "Sum up cached answers", _READS, answers)
            def get(self, request: Any) -> Any: ...

            @_described(
                "sumFilteredCaches",
                "Sum up cached answers, with filters",
                f"{_READS} {_FILTERS}",
                answers,
                request=CacheQuery,
                example=_LATE,
            )
            def post(self, request: Any) -> Any: ...

        return Described


class _CachesBulk(OpenApiViewExtension):  # type: ignore[no-untyped-call]
    target_class = "gateway.cache_api.CachesBulk"

    def view_replacement(self) -> type[APIView]:
        answers = _answers(CacheDeleted, "How many were deleted.")

        class Described(self.target):  # type: ignore[name-defined, misc]
            @_described(
                "deleteCaches",
                "Delete several cached answers, or all",
                f'{_CHANGES} The body, `application/json`, is one of `{{"cache_keys": [...]}}`, `{{"ids": [...]}}` or '
                '`{"all": true}`.',
                answers,
                extensions={"x-sample-body": {"all": True}},  # spectacular describes no body of a DELETE
            )
            def delete(self, request: Any) -> Any: ...

        return Described


class _Cache(OpenApiViewExtension):  # type: ignore[no-untyped-call]
    target_class = "gateway.cache_api.Cache"

    def view_replacement(self) -> type[APIView]:
        shown = _answers(CachedAnswer, "The answer.")
        gone = {204: OpenApiResponse(description="It is deleted.")}

        class Described(self.target):  # type: ignore[name-defined, misc]
            @_described("getCache", "Show one cached answer", _READS, shown, parameters=_KEY)
            def get(self, request: Any, cache_key: str) -> Any: ...

            @_described(
                "changeCache",
                "Give a cached answer another end",
                _CHANGES,
                shown,
                request=CacheEnd,
                parameters=_KEY,
                example={"ttl": 600},
            )
            def patch(self, request: Any, cache_key: str) -> Any: ...

            @_described("deleteCache", "Delete one cached answer", _CHANGES, gone, parameters=_KEY)
            def delete(self, request: Any, cache_key: str) -> Any: ...

        return Described
