"""Pure: JSON Schema as Anthropic enforces it: objects closed, no bounds, no recursion.

Responsible for saying the same schema in the part of JSON Schema that `output_config.format` and `strict` tools know;
what cannot be enforced is told to the model in the description instead. Never loosens a schema: one that cannot be said
(maps, anything goes, recursion) is refused, and the caller finds another way. Neighbour: `anthropic_encode`.

Source: https://platform.claude.com/docs/en/build-with-claude/structured-outputs (2026-11), "JSON Schema limitations",
and what Anthropic's own SDKs make of a schema.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode

_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})
_TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean", "null"})
_UNIONS = {"anyOf": "anyOf", "oneOf": "anyOf", "allOf": "allOf"}
_DEFINITIONS = ("$defs", "definitions")
# A schema of more is refused as too complex; following their references takes the cube of it.
_MOST_DEFINITIONS = 100
_KEPT = ("title", "description", "required")
# Members that say nothing to a model.
_SILENT = frozenset({"$schema", "$id", "$comment", "strict"})


class _Inexpressible(Exception):
    """Anthropic has no way to say this."""


def closed(schema: dict[str, Any]) -> dict[str, Any] | None:
    """Return a schema that Anthropic enforces and that allows nothing the given one forbids by its structure.

    None where there is none.
    """
    try:
        if _recurs(schema):
            return None
        return _node(schema)
    except _Inexpressible:
        return None


def _node(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Inexpressible
    rest = {name: item for name, item in value.items() if name not in _SILENT}
    node: dict[str, Any] = {
        name: {key: _node(item) for key, item in _mapping(rest.pop(name)).items()}
        for name in _DEFINITIONS
        if name in rest
    }
    if "$ref" in rest:
        return node | {"$ref": rest["$ref"]}
    kinds = _kinds(rest)
    _literals(rest, node)
    for name, sent in _UNIONS.items():
        if name in rest:
            node[sent] = [_node(item) for item in _list(rest.pop(name))]
    if kinds:
        node["type"] = rest.pop("type", "object")
    elif not node.keys() & {"anyOf", "allOf", "enum", "const"}:
        raise _Inexpressible  # anything goes
    if "object" in kinds:
        _object(rest, node)
    if "array" in kinds:
        _array(rest, node)
    if rest.get("format") in _FORMATS:
        node["format"] = rest.pop("format")
    node |= {name: rest.pop(name) for name in _KEPT if name in rest}
    return _told(node, rest)


def _kinds(rest: dict[str, Any]) -> set[str]:
    kind = rest.get("type")
    if kind is None:
        return {"object"} if "properties" in rest else set()
    kinds = {kind} if isinstance(kind, str) else {one if isinstance(one, str) else "" for one in _list(kind)}
    if not kinds <= _TYPES:
        raise _Inexpressible
    return kinds


def _literals(rest: dict[str, Any], node: dict[str, Any]) -> None:
    for name in ("enum", "const"):
        if name in rest:
            value = rest.pop(name)
            if any(isinstance(item, dict | list) for item in (_list(value) if name == "enum" else [value])):
                raise _Inexpressible
            node[name] = value


def _object(rest: dict[str, Any], node: dict[str, Any]) -> None:
    further = rest.pop("additionalProperties", None)
    if isinstance(further, dict) or "patternProperties" in rest or ("properties" not in rest and further is not False):
        raise _Inexpressible  # a map: its keys are not known
    node["properties"] = {name: _node(item) for name, item in _mapping(rest.pop("properties", {})).items()}
    node["additionalProperties"] = False


def _array(rest: dict[str, Any], node: dict[str, Any]) -> None:
    if "prefixItems" in rest:
        raise _Inexpressible
    if "items" in rest:
        node["items"] = _node(rest.pop("items"))
    if rest.get("minItems") in (0, 1):
        node["minItems"] = rest.pop("minItems")


def _told(node: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    """Put what cannot be enforced where the model reads it."""
    if rest:
        said = ", ".join(f"{name}: {_encode(item).decode()}" for name, item in rest.items())
        node["description"] = f"{node['description']}\n\n{{{said}}}" if node.get("description") else f"{{{said}}}"
    return node


def _recurs(schema: dict[str, Any]) -> bool:
    """Tell whether a definition leads back to itself. Raises: _Inexpressible where one is somewhere else."""
    named = {f"#/{place}/{name}": item for place in _DEFINITIONS for name, item in _mapping(schema.get(place)).items()}
    if len(named) > _MOST_DEFINITIONS:
        raise _Inexpressible
    leads = {name: set(_references(item)) for name, item in named.items()}
    if not set(_references(schema)) <= named.keys():
        raise _Inexpressible
    reached = {name: set(found) for name, found in leads.items()}
    for _ in leads:
        reached = {name: found.union(*(leads.get(one, set()) for one in found)) for name, found in reached.items()}
    return any(name in found for name, found in reached.items())


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _mapping(value: object) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _Inexpressible
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise _Inexpressible
    return value
