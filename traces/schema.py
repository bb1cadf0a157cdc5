"""The management API of logs in OpenAPI's words: parameters, bodies and the shape of a log.

Only read when the document at `/api/schema/` is built (`respan.schema` imports it), never by a request. The shape
mirrors `export.public_log`, the parameters `api._read`; tests hold both against real answers. Neighbours: `api.py`.
"""

from typing import Any, Final

from drf_spectacular.extensions import OpenApiViewExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.views import APIView

from respan.api import MAX_PAGE, MAX_PAGE_SIZE, OPERATORS
from traces import query

TAG: Final = "Logs"


class ManagementError(serializers.Serializer[Any]):
    """An error of the management API."""

    detail = serializers.CharField(help_text="For people: what to do next.")
    code = serializers.CharField(help_text="For programs, for example `invalid_filter`.")
    param = serializers.CharField(required=False, help_text="The parameter to mend.")


def _text(says: str) -> serializers.CharField:
    return serializers.CharField(help_text=says, required=False, allow_null=True)


def _whole(says: str) -> serializers.IntegerField:
    return serializers.IntegerField(help_text=says, required=False, allow_null=True)


def _number(says: str) -> serializers.FloatField:
    return serializers.FloatField(help_text=says, required=False, allow_null=True)


def _flag(says: str) -> serializers.BooleanField:
    return serializers.BooleanField(help_text=says, required=False, allow_null=True)


def _object(says: str) -> serializers.DictField:
    return serializers.DictField(help_text=says, required=False, allow_null=True)


def _list(says: str) -> serializers.ListField:
    return serializers.ListField(child=serializers.JSONField(), help_text=says, required=False, allow_null=True)


def _any(says: str) -> serializers.JSONField:
    return serializers.JSONField(help_text=says, required=False, allow_null=True)


class Attempt(serializers.Serializer[Any]):
    """One try at one target, a child span of its call, or a target that was passed over."""

    span_id = serializers.CharField(help_text="Its span, in hexadecimal.")
    parent_span_id = serializers.CharField(help_text="The call's span: its `span_unique_id`.")
    reason = serializers.CharField(help_text="`first`, `retry` or `fallback`.")
    skipped = serializers.BooleanField(help_text="Whether it was passed over without a try; `error` says why.")
    provider = _text("The provider.")
    model = _text("The model, as the provider names it.")
    credential = _text("The provider key.")
    credential_name = _text("Its name.")
    status = _whole("The HTTP status of the provider's answer; null: there was none.")
    error = _text("The error's code.")
    message = _text("The error's message.")
    started_us = _whole("When it began, in microseconds since 1970.")
    duration_us = serializers.IntegerField(help_text="How long it took, in microseconds.")
    latency = serializers.FloatField(help_text="The same in seconds.")
    prompt_tokens = serializers.IntegerField(help_text="The call's, where this attempt delivered; else 0.")
    completion_tokens = serializers.IntegerField(help_text="The call's, where this attempt delivered; else 0.")
    cost = _number("The call's, USD, where this attempt delivered; else 0.")
    next = _text("What followed and why, for example `fallback: 429`.")


class RequestLog(serializers.Serializer[Any]):
    """A call with its figures and, as far as it is stored, its content. `include_fields` leaves members out."""

    id = serializers.CharField(help_text="The log's id, `log_…`: the header X-Respan-Log-Id of the call.")
    unique_id = serializers.CharField(help_text="The same.")
    organization_id = _text("Your organization.")
    unique_organization_id = _text("The same.")
    organization_key_id = _text("The API key the call came with.")
    organization_key_name = _text("Its name.")
    environment = serializers.ChoiceField(["prod", "test"], required=False, help_text="The environment of that key.")
    is_test = _flag("Whether it is `test`.")
    log_type = _text("What was called: `chat`, `embedding`, `speech` and others.")
    log_method = _text("`inference`: the gateway made the call.")
    span_name = _text("The endpoint's name in traces.")
    trace_unique_id = _text("The trace, in hexadecimal.")
    span_unique_id = _text("This call's span, in hexadecimal: the parent of its attempts.")
    span_parent_id = _text("The span this one belongs to.")
    customer_identifier = _text("Respan's parameter of this name.")
    customer_name = _text("`customer_params.name`.")
    customer_email = _text("`customer_params.email`.")
    custom_identifier = _text("Respan's parameter of this name.")
    thread_identifier = _text("Respan's parameter of this name.")
    metadata = _object("Respan's parameter of this name.")
    status = serializers.ChoiceField(
        ["success", "error", "aborted", "interrupted"],
        required=False,
        help_text="`aborted`: the client left. `interrupted`: a process of Respan died.",
    )
    status_code = _whole("The HTTP status of the answer.")
    failed = _flag("Whether the status is not `success`.")
    error_code = _text("The error's code.")
    error_message = _text("The error's message.")
    finish_reason = _text("Why the answer ended, in chat completions' words.")
    warnings = _list("What Respan ignored or cut.")
    has_warnings = _flag("Whether there are any.")
    model = _text("The model that was asked for.")
    response_model = _text("The model that answered.")
    provider_id = _text("Its provider.")
    deployment_name = _text("The provider key that was used.")
    deployment_id = _text("The same.")
    load_balance_group_id = _text("The load balance group that chose the target.")
    used_custom_credential = _flag("Whether that key is your own.")
    covered_by = _text("Who paid: `own_key`, `credits` or `free`.")
    attempts = Attempt(
        many=True, required=False, help_text="Each try at a target, and each target that was passed over, in order."
    )
    fallback = _whole("Which fallback answered; 0: the model that was asked for.")
    retries = _whole("How many attempts after the first one reached a provider.")
    decision = _text("How the call was answered, in words: `answered by fallback 2 after 429, 1.2 s`.")
    limit_name = _text("The limit that refused the call or warned of it.")
    limit_info = _object("The same as Respan's object; only where one log is read.")
    cached = _flag("Whether the response cache answered.")
    cache_hit = _flag("The same.")
    cache_bit = _whole("The same as 0 or 1.")
    cache_miss_bit = _whole("1 where the cache was asked and had no answer.")
    cache_key = _text("The key of the cached answer.")
    cache_log_id = _text("The log of the call whose answer was given again.")
    saved = _number("What the cache spared, USD.")
    saved_nano = _text("The same, exact: a whole number of 1/1,000,000,000 USD.")
    stream = _flag("Whether the answer was streamed.")
    start_time = serializers.DateTimeField(required=False, help_text="When the call began, UTC.")
    timestamp = serializers.DateTimeField(required=False, help_text="When it ended, UTC.")
    latency = _number("Seconds from one to the other.")
    time_to_first_token = _number("Seconds to the first token of a stream.")
    tokens_per_second = _number("Output tokens by latency.")
    prompt_tokens = _whole("Tokens of the input, cached ones included.")
    completion_tokens = _whole("Tokens of the output, reasoning included.")
    total_request_tokens = _whole("The sum.")
    reasoning_tokens = _whole("Tokens of reasoning.")
    prompt_cache_hit_tokens = _whole("Input that was read from the provider's cache.")
    prompt_cache_creation_tokens = _whole("Input that was written to it.")
    usage_source = _text("Who counted: the provider, or Respan where it did not.")
    cost = _number("What the call costs, USD; null: no price is known.")
    cost_nano = _text("The same, exact: a whole number of 1/1,000,000,000 USD.")
    charged_nano = _text("What your credits paid.")
    absorbed_nano = _text("What the operator paid beyond them.")
    input = _text("The messages as JSON, or their beginning.")
    output = _text("The answer as JSON, or its beginning.")
    prompt_messages = _list("The messages in chat completions' form, whatever the call's dialect.")
    completion_message = _object("The first answer.")
    completion_messages = _list("All answers.")
    tool_calls = _list("What the answers called.")
    full_request = _object("The body of the request, as it was stored.")
    full_response = _object("The body of the answer; of a stream, put together.")
    request_truncated = _flag("Whether the request was too long to be stored whole.")
    response_truncated = _flag("The same of the answer.")
    is_log_omitted = _flag("Whether no content is stored (`disable_log`, or it was deleted since).")
    temperature = _any("From the request, where it is there; so are the members below.")
    top_p = _any("See `temperature`.")
    max_tokens = _any("See `temperature`.")
    max_completion_tokens = _any("See `temperature`.")
    n = _any("See `temperature`.")
    stop = _any("See `temperature`.")
    frequency_penalty = _any("See `temperature`.")
    presence_penalty = _any("See `temperature`.")
    seed = _any("See `temperature`.")
    reasoning_effort = _any("See `temperature`.")
    response_format = _any("See `temperature`.")
    tools = _any("See `temperature`.")
    tool_choice = _any("See `temperature`.")


class RequestLogPage(serializers.Serializer[Any]):
    """One page of logs. `next` and `previous` keep the window of time still."""

    count = serializers.IntegerField(help_text="How many logs the whole list has.")
    next = serializers.CharField(allow_null=True, help_text="The address of the next page.")
    previous = serializers.CharField(allow_null=True, help_text="The address of the page before.")
    results = RequestLog(many=True, help_text="The logs.")
    count_is_capped = serializers.BooleanField(help_text="Whether counting ended early: there are at least `count`.")


class RequestLogQuery(serializers.Serializer[Any]):
    """The parameters of a list as a body; those of the address win."""

    filters = serializers.DictField(
        required=False,
        help_text="`{field: {operator, value, connector}}`, or a list of them for a field. `value` may be a list.",
    )
    operator = serializers.ChoiceField(["AND", "OR"], required=False, help_text="Joins filters without a connector.")
    log_type = serializers.CharField(required=False, help_text="Only logs of this type.")
    page = serializers.IntegerField(required=False, min_value=1, help_text=f"From 1 to {MAX_PAGE}.")
    page_size = serializers.IntegerField(required=False, min_value=1, help_text=f"At most {MAX_PAGE_SIZE:,}.")
    cursor = serializers.CharField(required=False, help_text="From `next` or `previous`.")
    sort_by = serializers.CharField(required=False, help_text="As in the address.")
    start_time = serializers.CharField(required=False, help_text="As in the address.")
    end_time = serializers.CharField(required=False, help_text="As in the address.")
    environment = serializers.ChoiceField(
        ["prod", "production", "test"], required=False, help_text="As in the address."
    )
    is_test = serializers.BooleanField(required=False, help_text="As in the address.")
    all_envs = serializers.BooleanField(required=False, help_text="As in the address.")
    include_fields = serializers.ListField(
        child=serializers.CharField(), required=False, help_text="Names of the members to return."
    )


def _parameter(name: str, says: str, **more: Any) -> OpenApiParameter:
    return OpenApiParameter(name, more.pop("type", OpenApiTypes.STR), OpenApiParameter.QUERY, description=says, **more)


_OPERATOR_NAMES = sorted(set(OPERATORS.values()))
_PARAMETERS: Final = [
    _parameter("page", f"From 1 to {MAX_PAGE}; deeper by following `next`.", type=OpenApiTypes.INT, default=1),
    _parameter("page_size", f"At most {MAX_PAGE_SIZE:,}; more is cut.", type=OpenApiTypes.INT, default=100),
    _parameter("cursor", "Continues at a row; comes from `next` and `previous`."),
    _parameter("sort_by", "The order; `-` in front means descending. Default `-id`, the newest first.",
               enum=[sign + key for key in query.SORTS for sign in ("-", "")]),
    _parameter("start_time", "The oldest start, ISO 8601. Default one hour before `end_time`."),
    _parameter("end_time", "The newest start, ISO 8601. Default now."),
    _parameter("environment", "Default: the environment of the key.", enum=["prod", "production", "test"]),
    _parameter("is_test", "Another way to say the environment.", type=OpenApiTypes.BOOL),
    _parameter("all_envs", "Logs of both environments.", type=OpenApiTypes.BOOL),
    _parameter("include_fields", "Names of the members to return, separated by commas. Without content it is faster."),
    _parameter("log_type", "Only logs of this type."),
    _parameter("operator", "Joins filters without a connector.", enum=["AND", "OR"], default="AND"),
    _parameter("filters", "Filters as JSON, `{field: {operator, value, connector}}`."),
    _parameter(
        "field",
        "Any field named above as a filter: `model=gpt-4o-mini`, or `cost[value]=0.01&cost[operator]=gt`; any other "
        "name is one of metadata.",
        type={"type": "object", "additionalProperties": {"type": "string"}},
        style="form",
        explode=True,
    ),
]  # fmt: skip
_ABOUT_FILTERS: Final = (
    f"Fields: {', '.join(f'`{name}`' for name in query.FIELDS)}, `metadata__<name>`. "
    f"Operators: {', '.join(f'`{name}`' for name in _OPERATOR_NAMES)} as far as the field's kind has them."
)
_ERRORS: Final[dict[Any, Any]] = {
    "4XX": OpenApiResponse(ManagementError, description="What is wrong with the request, or with the key."),
    "5XX": OpenApiResponse(ManagementError, description="The database does not answer; try again."),
}
_PAGE: Final[dict[Any, Any]] = {200: OpenApiResponse(RequestLogPage, description="One page of logs."), **_ERRORS}


class _ListOfLogs(OpenApiViewExtension):  # type: ignore[no-untyped-call]
    target_class = "traces.api.RequestLogList"

    def view_replacement(self) -> type[APIView]:
        class Described(self.target):  # type: ignore[name-defined, misc]
            @extend_schema(
                operation_id="listRequestLogs",
                tags=[TAG],
                summary="List logs",
                description=f"The key needs the scope “Read logs”. {_ABOUT_FILTERS}",
                parameters=_PARAMETERS,
                responses=_PAGE,
            )
            def get(self, request: Any) -> Any: ...

            @extend_schema(
                operation_id="searchRequestLogs",
                tags=[TAG],
                summary="List logs, with filters in a body",
                description="The same list. Parameters of the address are allowed too and win.",
                parameters=[],
                request=RequestLogQuery,
                responses=_PAGE,
                examples=[OpenApiExample("Calls that cost", {"filters": {"cost": {"operator": "gt", "value": 0}}},
                                         request_only=True)],
            )  # fmt: skip
            def post(self, request: Any) -> Any: ...

        return Described


class _OneLog(OpenApiViewExtension):  # type: ignore[no-untyped-call]
    target_class = "traces.api.RequestLog"

    def view_replacement(self) -> type[APIView]:
        class Described(self.target):  # type: ignore[name-defined, misc]
            @extend_schema(
                operation_id="getRequestLog",
                tags=[TAG],
                summary="Show one log",
                description="With its content. The key needs the scope “Read logs”.",
                parameters=[
                    OpenApiParameter("log_id", str, OpenApiParameter.PATH, description="`log_…`, or the bare UUID.")
                ],
                responses={200: OpenApiResponse(RequestLog, description="The log."), **_ERRORS},
            )
            def get(self, request: Any, log_id: str) -> Any: ...

        return Described
