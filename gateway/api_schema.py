"""What the management APIs of this app share in OpenAPI's words: how a method is described, and its refusals.

Only read when the document at `/api/schema/` is built, never by a request. Knows no API. Neighbours: `cache_schema.py`
and `limit_schema.py`, which describe theirs with it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

Method = TypeVar("Method", bound=Callable[..., Any])

_ERROR: Final = {"$ref": "#/components/schemas/ManagementError"}
_ERRORS: Final[dict[Any, Any]] = {
    "4XX": OpenApiResponse(_ERROR, description="What is wrong with the request, or with the key."),
    "5XX": OpenApiResponse(_ERROR, description="The database does not answer; try again."),
}


def described(
    tag: str,
    operation_id: str,
    summary: str,
    says: str,
    answers: Mapping[Any, Any],
    *,
    request: Any = None,
    parameters: Sequence[OpenApiParameter] = (),
    example: Mapping[str, Any] | None = None,
    extensions: dict[str, Any] | None = None,
) -> Callable[[Method], Method]:
    """Describe a method; refusals are those of every management API."""
    decorated: Callable[[Method], Method] = extend_schema(
        operation_id=operation_id,
        tags=[tag],
        summary=summary,
        description=says,
        request=request,
        parameters=list(parameters),
        responses={**answers, **_ERRORS},
        examples=[OpenApiExample("A request", dict(example), request_only=True)] if example is not None else None,
        extensions=extensions,
    )
    return decorated
