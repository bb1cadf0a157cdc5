"""The OpenAPI document at `/api/schema/`: the management API as its views say it, the gateway as `openapi.yaml` does.

Built at the first request of a process and kept as bytes; public, because it says nothing that is not the same in every
installation. Never describes pages. Neighbours: `gateway/openapi.yaml`, `traces/schema.py`, `reference.py` (a page made
of it), `settings.SPECTACULAR_SETTINGS` (whose hooks are here).
"""

import hashlib
from functools import cache
from importlib import import_module
from threading import Lock
from typing import Any, Final

import msgspec
import yaml
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.cache import patch_vary_headers
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import etag

from respan.api import AsyncAPIView, MalformedRequest, MethodNotAllowed, envelope
from respan.errors import Error

GATEWAY: Final = settings.BASE_DIR / "gateway" / "openapi.yaml"
# What a client may ask for -> the content type of the answer.
_TYPES: Final = {"json": "application/json", "yaml": "application/yaml"}
_ACCEPTED: Final = {
    **dict.fromkeys(("application/json", "application/vnd.oai.openapi+json"), "json"),
    **dict.fromkeys(("application/yaml", "application/x-yaml", "text/yaml", "application/vnd.oai.openapi"), "yaml"),
}
_building = Lock()

Document = dict[str, Any]


# --- Hooks of drf-spectacular ----------------------------------------------------------------------------------------


def management_only(endpoints: list[tuple[str, str, str, Any]]) -> list[tuple[str, str, str, Any]]:
    """Return the endpoints to describe by their views: those of the management API."""
    for name in ("respan.schema_security", "traces.schema", "gateway.cache_schema", "gateway.limit_schema"):
        import_module(name)  # spectacular finds their classes once they exist
    return [each for each in endpoints if not issubclass(each[3].cls, AsyncAPIView)]


def with_gateway(result: Document, **_: Any) -> Document:
    """Add what `openapi.yaml` says; it may repeat the security schemes, nothing else. Raises: ValueError."""
    kept = yaml.safe_load(GATEWAY.read_text(encoding="utf-8"))
    twice = kept["paths"].keys() & result["paths"].keys()
    components = result.setdefault("components", {})
    for kind, named in kept["components"].items():
        before = components.setdefault(kind, {})
        twice |= set() if kind == "securitySchemes" else named.keys() & before.keys()
        before |= named
    if twice:
        raise ValueError(f"described twice: {', '.join(sorted(twice))}")
    result["paths"] = kept["paths"] | result["paths"]
    result["tags"] = [
        *kept["tags"],
        {"name": "Logs", "description": "What the gateway recorded of your calls."},
        {"name": "Caches", "description": "Answers that the response cache gives again."},
        {"name": "Limits", "description": "What bounds your calls."},
    ]
    result["security"] = [{name: []} for name in kept["components"]["securitySchemes"]]
    return result


# --- The document ----------------------------------------------------------------------------------------------------


def document() -> Document:
    """Return the document; not to be changed."""
    with _building:  # while it is built, spectacular puts other classes in the place of the views'
        return _document()


@cache
def _document() -> Document:
    from drf_spectacular.generators import SchemaGenerator

    built = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    plain: Document = msgspec.json.decode(msgspec.json.encode(built))
    return plain


@cache
def written(form: str) -> bytes:
    """Return the document as `json` or `yaml`."""
    if form == "json":
        return msgspec.json.encode(document())
    return yaml.dump(
        document(), Dumper=_WithoutAliases, sort_keys=False, allow_unicode=True, width=120, encoding="utf-8"
    )


class _WithoutAliases(yaml.SafeDumper):
    """Writes what occurs twice twice: few readers of OpenAPI know YAML's anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# --- The view --------------------------------------------------------------------------------------------------------


@csrf_exempt
def view(request: HttpRequest) -> HttpResponse:
    """Answer `/api/schema/`, in the form that `?format=` or the header Accept names; JSON where neither does."""
    try:
        if request.method not in {"GET", "HEAD"}:
            raise MethodNotAllowed(headers={"Allow": "GET, HEAD"})
        form = _form(request)
    except Error as error:
        return JsonResponse(envelope(error), status=error.status, headers=error.headers)
    response = etag(lambda _: _etag(form))(lambda _: HttpResponse(written(form), content_type=_TYPES[form]))(request)
    response["Cache-Control"] = "public, no-cache"
    patch_vary_headers(response, ["Accept"])
    return response


def _form(request: HttpRequest) -> str:
    named = request.GET.get("format")
    if named is None:
        return _ACCEPTED.get(request.get_preferred_type(list(_ACCEPTED)) or "", "json")
    if named not in _TYPES:
        raise MalformedRequest("“format” is json or yaml.", param="format")
    return named


@cache
def _etag(form: str) -> str:
    return f'"{hashlib.sha256(written(form)).hexdigest()[:32]}"'
