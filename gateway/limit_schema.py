"""The management API of limits in OpenAPI's words: bodies, answers and the shape of a limit.

Only read when the document at `/api/schema/` is built (`respan.schema` imports it), never by a request. The shape
mirrors `limit_api.public`; tests hold it against real answers. Neighbours: `limit_api.py`.
"""

from functools import partial
from typing import Any, Final

from drf_spectacular.extensions import OpenApiViewExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from rest_framework import serializers
from rest_framework.views import APIView

from accounts.authentication import LogsKey
from gateway.api_schema import described
from gateway.limits import SCOPES
from gateway.models import LimitPolicy
from gateway.windows import PERIODS
from respan.api import MAX_PAGE_SIZE

TAG: Final = "Limits"


def _text(says: str, **more: Any) -> serializers.CharField:
    return serializers.CharField(help_text=says, **more)


def _moment(says: str) -> serializers.DateTimeField:
    return serializers.DateTimeField(help_text=says, allow_null=True, required=False)


class LimitCondition(serializers.Serializer[Any]):
    """When the counter reaches a value."""

    operator = serializers.ChoiceField(["gte"], help_text="Always `gte`.")
    value = serializers.FloatField(help_text="Of a cost in USD, else a whole number.")


class LimitTrigger(serializers.Serializer[Any]):
    """What makes a rule act."""

    counter = LimitCondition(help_text="The value of the counter.")


class LimitRule(serializers.Serializer[Any]):
    """What happens when the counter reaches a value."""

    trigger = LimitTrigger(help_text="When it acts.")
    severity = serializers.ChoiceField(
        ["hard", "soft"], help_text="`hard`: the call is refused with 429. `soft`: its log carries a warning."
    )
    description = _text("For you.", required=False, allow_blank=True)
    notification_method_id = _text("There are none yet: null.", required=False, allow_null=True)


class LimitState(serializers.Serializer[Any]):
    """The window under way."""

    meter_id = _text("Changes when the counter begins anew.")
    interval_start = _moment("When the window began; null: the limit is for life.")
    interval_end = _moment("When it ends.")
    current_value = serializers.FloatField(help_text="What was used.")


class LimitBody(serializers.Serializer[Any]):
    """A limit to set. To change one, the members that change."""

    name = _text("A refused call is told it.", max_length=120)
    scope = _text("A word of your own.", required=False, allow_null=True)
    compose = serializers.ListField(
        child=serializers.ChoiceField(list(SCOPES)), help_text="What is counted apart; each combination has a counter."
    )
    scope_value = serializers.JSONField(
        required=False,
        allow_null=True,
        help_text="Only this one: text, or an object of one text for each scope. Null: each by itself.",
    )
    metric = serializers.ChoiceField(LimitPolicy.Metric.values, help_text="What is counted.")
    algorithm = serializers.ChoiceField(["balance_fixed_window"], required=False, help_text="There is one.")
    period = _text(f"{', '.join(PERIODS)}, or seconds; null: for life.", required=False, allow_null=True)
    anchor = serializers.ChoiceField(
        LimitPolicy.Anchor.values, required=False, help_text="Where windows begin; else with the calendar, in UTC."
    )
    anchor_at = _moment("Goes with the anchor `explicit_ts`.")
    effective_at = _moment("Calls meet it from then on.")
    expires_at = _moment("Calls meet it until then.")
    priority = serializers.IntegerField(required=False, help_text="The highest is asked first.")
    is_active = serializers.BooleanField(required=False, help_text="False: it is kept and no call meets it.")
    rules = LimitRule(many=True, required=False, help_text="One to five.")
    max_requests = serializers.IntegerField(
        required=False,
        allow_null=True,
        help_text="Instead of a hard rule, for `request_count`: exactly so many pass. The rule's value is one more.",
    )
    max_concurrent = serializers.IntegerField(
        required=False, allow_null=True, help_text="The same for `concurrency`: so many calls at once."
    )


class Limit(LimitBody):
    """A limit, and how far it is used up."""

    id = _text("Its id, `limit_…`.")
    current_state = LimitState(allow_null=True, help_text="Null where each has a counter of its own.")
    created_at = serializers.DateTimeField(help_text="When it was set.")
    updated_at = serializers.DateTimeField(help_text="When it was changed.")


class LimitList(serializers.Serializer[Any]):
    """One page of limits."""

    count = serializers.IntegerField(help_text="How many there are.")
    next = _text("The address of the next page.", allow_null=True)
    previous = _text("The address of the page before.", allow_null=True)
    results = Limit(many=True, help_text="The limits, the first to be asked first.")


_READS: Final = "The key needs the scope “Read logs”."
_CHANGES: Final = "The key needs the scope “Change limits”. Calls meet the change within 5 seconds."
_ID: Final = [OpenApiParameter("public_id", str, OpenApiParameter.PATH, description="The id of the limit.")]
_PAGES: Final = [
    OpenApiParameter("page", OpenApiTypes.INT, OpenApiParameter.QUERY, description="From 1."),
    OpenApiParameter("page_size", OpenApiTypes.INT, OpenApiParameter.QUERY, description=f"At most {MAX_PAGE_SIZE:,}."),
]
_EXAMPLE: Final = {
    "name": "100 a minute for each customer",
    "compose": ["customer_identifier"],
    "metric": "request_count",
    "period": "minute",
    "max_requests": 100,
}


_NEEDS: Final[dict[str, Any]] = {"x-sample-needs": "Needs a key with the scope “Change limits”."}
_described = partial(described, TAG)

_ONE: Final = {200: OpenApiResponse(Limit, description="The limit.")}


class _LimitPolicies(OpenApiViewExtension):  # type: ignore[no-untyped-call]
    target_class = "gateway.limit_api.LimitPolicies"

    def view_replacement(self) -> type[APIView]:
        listed = {200: OpenApiResponse(LimitList, description="One page of limits.")}
        made = {201: OpenApiResponse(Limit, description="The limit that was set.")}

        class Described(self.target):  # type: ignore[name-defined, misc]
            def get_authenticators(self) -> list[Any]:
                return [LogsKey()]  # all of them read the same headers; what they ask for is said in words

            @_described("listLimits", "List limits", _READS, listed, parameters=_PAGES)
            def get(self, request: Any) -> Any: ...

            @_described(
                "createLimit", "Set a limit", _CHANGES, made, request=LimitBody, example=_EXAMPLE, extensions=_NEEDS
            )
            def post(self, request: Any) -> Any: ...

        return Described


class _Limit(OpenApiViewExtension):  # type: ignore[no-untyped-call]
    target_class = "gateway.limit_api.Limit"

    def view_replacement(self) -> type[APIView]:
        gone = {204: OpenApiResponse(description="It is deleted.")}

        class Described(self.target):  # type: ignore[name-defined, misc]
            def get_authenticators(self) -> list[Any]:
                return [LogsKey()]  # all of them read the same headers; what they ask for is said in words

            @_described("getLimit", "Read a limit", _READS, _ONE, parameters=_ID)
            def get(self, request: Any, public_id: str) -> Any: ...

            @_described(
                "changeLimit", "Change a limit", _CHANGES, _ONE, request=LimitBody(partial=True), parameters=_ID,
                example={"max_requests": 200}, extensions=_NEEDS,
            )  # fmt: skip
            def patch(self, request: Any, public_id: str) -> Any: ...

            @_described("deleteLimit", "Delete a limit", _CHANGES, gone, parameters=_ID, extensions=_NEEDS)
            def delete(self, request: Any, public_id: str) -> Any: ...

        return Described
