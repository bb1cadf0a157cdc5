"""Respan's own parameters: what they are, which carriers bring them, which carrier wins.

Carriers, first wins: the `respan_params` object in the body, the header `X-Data-Respan-Params` (base64 or raw JSON),
the top level of the body; the older names `keywordsai_params` and `X-Data-Keywordsai-Params` still count. A carrier
that is not an object is ignored. Never forwards anything and never decodes messages: `gateway.dialects` reads the
body, `gateway.call` acts. Neighbours: `routing_params.py` and `execution_params.py` read most of what acts. Source:
Respan's public documentation of the gateway parameters.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

import msgspec

from gateway import execution_params, routing_params
from gateway.execution_params import Cache as Cache
from gateway.execution_params import Retry as Retry
from gateway.execution_params import Timeouts as Timeouts
from gateway.param_values import InvalidRequest as InvalidRequest
from gateway.param_values import flag, whole
from gateway.routing_params import Balance as Balance
from gateway.routing_params import GivenAccount as GivenAccount
from gateway.routing_params import GivenKeys as GivenKeys
from gateway.routing_params import Member as Member

CARRIERS = ("respan_params", "keywordsai_params")
HEADERS = ("HTTP_X_DATA_RESPAN_PARAMS", "HTTP_X_DATA_KEYWORDSAI_PARAMS")
# The one parameter with a header of its own.
ROUTE_HEADER = "HTTP_X_RESPAN_ROUTE_PROVIDER"

ACTING = (
    frozenset(
        {
            "customer_identifier",
            "customer_params",
            "customer_email",
            "metadata",
            "custom_identifier",
            "thread_identifier",
            "disable_log",
            "variables",
        }
    )
    | routing_params.NAMES
    | execution_params.NAMES
)
# Known to be Respan's, not acted upon yet: taken out of the body, named in a warning on the log.
ANNOUNCED = frozenset(
    (
        "properties",
        "group_identifier",
        "session_identifier",
        "trace_group_identifier",
        "evaluation_identifier",
        "trace_unique_id",
        "span_unique_id",
        "span_parent_id",
        "span_name",
        "span_workflow_name",
        "span_path",
        "trace_name",
        "prompt",
        "field_name",
        "delimiter",
        "positive_feedback",
        "echo",
        "mock_response",
        "posthog_integration",
        "linkup_params",
        "mem0_params",
        "hyperspell_params",
        "moda_params",
        "eval_params",
        "note",
        "category",
        "prompt_unit_price",
        "completion_unit_price",
        "weight",
        "retries",
        "extra_headers",
        "is_test",
    )
)
# What a body may hold for Respan alone; a provider would refuse it.
OURS = ACTING | ANNOUNCED | frozenset(CARRIERS)


@lru_cache(maxsize=100)
def ours_beside(keeps: frozenset[str]) -> frozenset[str]:
    """Return the members that are Respan's in the body of a dialect which has some of the same names."""
    return OURS - keeps


MAX_IDENTIFIER = 254
MAX_METADATA_MEMBERS = 64
MAX_METADATA_VALUE = 2_000
MAX_RATE_LIMIT = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Params:
    """Respan's parameters of one call, checked and cut to size. `warnings` go on the log.

    A key in it is a `Secret`, which nothing can show.
    """

    customer_identifier: str | None = None
    customer_name: str | None = None
    customer_email: str | None = None
    custom_identifier: str | None = None
    thread_identifier: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    disable_log: bool = False
    # What fills `{{name}}` in the messages of a chat completion.
    variables: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    # Where the call goes. None: the organization's list.
    fallback_models: tuple[str, ...] | None = None
    disable_fallback: bool = False
    # Candidates beside the model asked for.
    models: tuple[str, ...] = ()
    exclude_models: frozenset[str] = frozenset()
    exclude_providers: frozenset[str] = frozenset()
    load_balance: Balance | None = None
    customer_credentials: tuple[GivenKeys, ...] = ()
    credential_override: Mapping[str, GivenAccount] = field(default_factory=dict)
    model_name_map: Mapping[str, str] = field(default_factory=dict)
    route_provider: str | None = None

    # How it is carried out. None: as the organization has it.
    retry: Retry | None = None
    timeouts: Timeouts | None = None
    cache: Cache | None = None
    request_breakdown: bool = False
    # Requests a minute of this customer.
    customer_rate_limit: int | None = None

    @property
    def routes(self) -> bool:
        """Tell whether anything is said about where the call goes."""
        return (
            self.fallback_models is not None
            or self.load_balance is not None
            or self.route_provider is not None
            or bool(self.models or self.exclude_models or self.exclude_providers or self.disable_fallback)
            or bool(self.customer_credentials or self.credential_override or self.model_name_map)
        )


NONE = Params()
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def gather(
    members: Mapping[str, msgspec.Raw], meta: Mapping[str, Any], *, not_ours: frozenset[str] = frozenset()
) -> Params:
    """Read the three carriers of a request; `members` is the top level of its body, `meta` Django's request.META.

    `not_ours` are members that are the dialect's own; what acts (`metadata`) is read all the same.

    Raises: InvalidRequest when a parameter that acts has a type it cannot act upon.
    """
    present = members.keys() & OURS
    if not_ours:
        present -= not_ours - ACTING
    header, route = meta.get(HEADERS[0]) or meta.get(HEADERS[1]), meta.get(ROUTE_HEADER)
    if not present and not header and not route:
        return NONE
    values: dict[str, Any] = {
        name: _decoded(members[name]) for name in members if name in present and name not in CARRIERS
    }
    warnings: list[str] = []
    carried = [values, {"route_provider_override": route.strip()} if route else {}, _header_object(header, warnings)]
    carried += [_object(_decoded(members[name]), name, warnings) for name in reversed(CARRIERS) if name in present]
    merged: dict[str, Any] = {}
    for carrier in carried:
        merged.update(carrier)
    if "variables" in merged:
        merged["variables"] = _variables([carrier.get("variables") for carrier in carried])
    return _checked(merged, warnings)


def with_model(body: bytes, meta: Mapping[str, Any]) -> bytes | None:
    """Return a body that names a model, where only Respan's parameters name any: several, or those of a group.

    None where they name none, or the body does. Raises: InvalidRequest.
    """
    try:
        members = _MEMBERS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if "model" in members and _decoded(members["model"]) not in (None, ""):
        return None
    given = gather(members, meta)
    shared = given.load_balance.members if given.load_balance is not None else ()
    group = given.load_balance.group_id if given.load_balance is not None else None
    name = next(iter((*given.models, *(member.model for member in shared))), group)
    return None if name is None else msgspec.json.encode({**members, "model": name})


def _variables(carried: list[Any]) -> dict[str, Any]:
    """Merge variables name by name; unlike everything else, those at the top level win. Raises: InvalidRequest."""
    merged: dict[str, Any] = {}
    for variables in reversed(carried):
        if variables is not None and not isinstance(variables, dict):
            raise InvalidRequest("variables must be an object.", param="variables")
        merged.update(variables or {})
    return merged


def _decoded(raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None


def _object(value: Any, carrier: str, warnings: list[str]) -> dict[str, Any]:
    if isinstance(value, str):
        value = _decoded(msgspec.Raw(value.encode("utf-8", "replace")))
    if isinstance(value, dict):
        return value
    warnings.append(f"{carrier} is not an object and was ignored")
    return {}


def _header_object(header: str | None, warnings: list[str]) -> dict[str, Any]:
    if not header:
        return {}
    text = header.strip()
    if not text.startswith("{"):
        try:
            text = base64.b64decode(text, validate=True).decode()
        except (binascii.Error, ValueError):
            text = ""
    return _object(text, "X-Data-Respan-Params", warnings)


def _checked(values: dict[str, Any], warnings: list[str]) -> Params:
    customer = values.get("customer_params")
    customer = customer if isinstance(customer, dict) else {}
    if "customer_params" in values and not customer and values["customer_params"] not in (None, {}):
        raise InvalidRequest("customer_params must be an object.", param="customer_params")
    for name in sorted(values.keys() & ANNOUNCED):
        warnings.append(f"{name} has no effect yet")
    for name in sorted(customer.keys() - {"customer_identifier", "name", "email", "rate_limit"}):
        warnings.append(f"customer_params.{name} has no effect yet")
    return Params(
        customer_identifier=_text(
            customer.get("customer_identifier", values.get("customer_identifier")), "customer_identifier", warnings
        ),
        customer_name=_text(customer.get("name"), "customer_params.name", warnings),
        customer_email=_text(customer.get("email", values.get("customer_email")), "customer_params.email", warnings),
        custom_identifier=_text(values.get("custom_identifier"), "custom_identifier", warnings),
        thread_identifier=_text(values.get("thread_identifier"), "thread_identifier", warnings),
        metadata=_metadata(values.get("metadata"), warnings),
        disable_log=bool(flag(values.get("disable_log"), "disable_log")),
        variables=values.get("variables") or {},
        warnings=warnings,
        retry=execution_params.retry(values, warnings),
        timeouts=execution_params.timeouts(values, warnings),
        cache=execution_params.cache(values),
        request_breakdown=bool(flag(values.get("request_breakdown"), "request_breakdown")),
        customer_rate_limit=whole(
            customer.get("rate_limit"), "customer_params.rate_limit", least=1, most=MAX_RATE_LIMIT
        ),
        **_routing(values, warnings),
    )


def _routing(values: Mapping[str, Any], warnings: list[str]) -> dict[str, Any]:
    """Return what the request says about where it goes, by the names of `Params`. Raises: InvalidRequest."""
    if routing_params.NAMES.isdisjoint(values):
        return {}
    found = routing_params.read(values, warnings)
    return {each.name: getattr(found, each.name) for each in fields(found)}


def _text(value: Any, name: str, warnings: list[str]) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidRequest(f"{name} must be a string.", param=name)
    text = _storable(str(value))
    if len(text) > MAX_IDENTIFIER:
        warnings.append(f"{name} was cut to {MAX_IDENTIFIER} characters")
    return text[:MAX_IDENTIFIER]


def _storable(text: str) -> str:
    """Take out what PostgreSQL cannot store as text: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _metadata(value: Any, warnings: list[str]) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest("metadata must be an object.", param="metadata")
    if len(value) > MAX_METADATA_MEMBERS:
        warnings.append(f"metadata was cut to {MAX_METADATA_MEMBERS} members")
    members = list(value.items())[:MAX_METADATA_MEMBERS]
    return {_storable(name)[:MAX_IDENTIFIER]: _metadata_value(member, warnings) for name, member in members}


def _metadata_value(value: Any, warnings: list[str]) -> str:
    text = _storable(value if isinstance(value, str) else msgspec.json.encode(value).decode())
    if len(text) > MAX_METADATA_VALUE:
        warnings.append(f"a metadata value was cut to {MAX_METADATA_VALUE} characters")
    return text[:MAX_METADATA_VALUE]
