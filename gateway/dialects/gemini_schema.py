"""Pure: JSON Schema <-> Gemini's own schema, a subset of OpenAPI's.

Responsible for models that take no raw JSON Schema (`parameters`, `responseSchema`), and for reading what Google's
clients send in that subset. What the subset cannot say is left out where that only loosens a schema, and said in the
description; references are written out, as far as they end. Never validates a value. Neighbours: `gemini_encode.py`,
`gemini_decode.py`.

Source: https://ai.google.dev/api/caching#Schema (2026-11).
"""

from typing import Any

Schema = dict[str, Any]

_MAX_DEPTH = 24
# References written out can make a small schema a huge one.
_MAX_SCHEMAS = 5_000
_TYPES = {
    "string": "STRING",
    "number": "NUMBER",
    "integer": "INTEGER",
    "boolean": "BOOLEAN",
    "array": "ARRAY",
    "object": "OBJECT",
}
_FORMATS = {
    "STRING": frozenset({"date-time", "enum"}),
    "NUMBER": frozenset({"float", "double"}),
    "INTEGER": frozenset({"int32", "int64"}),
}
_KEPT = {
    "": ("title", "description"),
    "STRING": ("pattern", "minLength", "maxLength"),
    "NUMBER": ("minimum", "maximum"),
    "INTEGER": ("minimum", "maximum"),
    "ARRAY": ("minItems", "maxItems"),
    "OBJECT": ("minProperties", "maxProperties", "propertyOrdering"),
}
# Whole numbers that Google's JSON may write as strings.
_COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})


def raw(schema: Schema) -> Schema:
    """Return JSON Schema as `parametersJsonSchema` and `responseJsonSchema` take it: without its dialect's name."""
    return {name: value for name, value in schema.items() if name not in ("$schema", "$id")}


def has_properties(schema: Schema | None) -> bool:
    """Tell whether a schema of parameters says anything: Google refuses an empty object."""
    if not schema:
        return False
    return any(schema.get(name) for name in ("properties", "$ref", "anyOf", "oneOf", "allOf", "patternProperties"))


# --- JSON Schema -> the subset --------------------------------------------------------------------------------------


def to_subset(schema: Schema) -> Schema:
    """Return a JSON Schema in Gemini's subset."""
    return _Subset(schema).written(schema, 0, ())


class _Subset:
    __slots__ = ("_left", "_root")

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._left = _MAX_SCHEMAS

    def written(self, schema: object, depth: int, followed: tuple[str, ...]) -> Schema:
        """Return one schema; `followed` are the references that lead to it: one that comes again has no end."""
        self._left -= 1
        if type(schema) is not dict or depth > _MAX_DEPTH or self._left < 0:
            return {"type": "STRING" if schema is None or isinstance(schema, bool) else "OBJECT"}
        reference = schema.get("$ref")
        if isinstance(reference, str):
            if reference in followed:
                return {"type": "OBJECT"}
            followed = (*followed, reference)
            beside = {name: value for name, value in schema.items() if name != "$ref"}
            return self.written({**self._behind(reference), **beside}, depth, followed)
        if isinstance(schema.get("allOf"), list):
            merged = _merged(schema, [self._followed(item) for item in schema["allOf"]])
            return self.written(merged, depth + 1, followed)
        choices = next((schema[name] for name in ("anyOf", "oneOf") if isinstance(schema.get(name), list)), None)
        if choices:
            return self._any_of(schema, choices, depth, followed)
        types = schema.get("type")
        if isinstance(types, list):
            return self._of_types(schema, types, depth, followed)
        return self._plain(schema, depth, followed)

    def _behind(self, reference: str) -> Schema:
        place: Any = self._root
        for step in reference.removeprefix("#").strip("/").split("/"):
            step = step.replace("~1", "/").replace("~0", "~")
            if step:
                place = place.get(step) if isinstance(place, dict) else None
        return place if isinstance(place, dict) else {}

    def _followed(self, schema: object) -> Schema:
        seen = 0
        while isinstance(schema, dict) and isinstance(schema.get("$ref"), str) and seen < _MAX_DEPTH:
            seen += 1
            schema = {**self._behind(schema["$ref"]), **{k: v for k, v in schema.items() if k != "$ref"}}
        return schema if isinstance(schema, dict) else {}

    def _any_of(self, schema: Schema, choices: list[Any], depth: int, followed: tuple[str, ...]) -> Schema:
        nullable = any(_is_null(choice) for choice in choices)
        found = [self.written(choice, depth + 1, followed) for choice in choices if not _is_null(choice)]
        said = {name: schema[name] for name in _KEPT[""] if isinstance(schema.get(name), str)}
        if len(found) == 1:
            return {**found[0], **said} | ({"nullable": True} if nullable else {})
        return {"anyOf": found, **said} | ({"nullable": True} if nullable else {})

    def _of_types(self, schema: Schema, types: list[Any], depth: int, followed: tuple[str, ...]) -> Schema:
        kinds = [kind for kind in types if kind != "null"]
        choices = [{**schema, "type": kind} for kind in kinds] or [{"type": "string"}]
        if "null" in types:
            choices.append({"type": "null"})
        return self._any_of(schema, choices, depth, followed)

    def _plain(self, schema: Schema, depth: int, followed: tuple[str, ...]) -> Schema:
        kind = _kind(schema)
        written: Schema = {"type": kind}
        for name in (*_KEPT[""], *_KEPT.get(kind, ())):
            if schema.get(name) is not None:
                written[name] = schema[name]
        if isinstance(schema.get("format"), str) and schema["format"] in _FORMATS.get(kind, ()):
            written["format"] = schema["format"]
        if schema.get("nullable") is True:
            written["nullable"] = True
        self._values(schema, kind, written)
        if kind == "ARRAY":
            written["items"] = self._items(schema, depth, followed)
        if kind == "OBJECT":
            self._properties(schema, written, depth, followed)
        return written

    @staticmethod
    def _values(schema: Schema, kind: str, written: Schema) -> None:
        """Write the values allowed: those of strings as `enum`, others into the description."""
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if not isinstance(values, list) or not values:
            return
        if None in values:
            written["nullable"] = True
        values = [value for value in values if value is not None]
        if kind == "STRING":
            written["enum"] = [str(value) for value in values if value != ""]
            written["format"] = "enum"
        else:
            said = "One of: " + ", ".join(str(value) for value in values) + "."
            written["description"] = f"{written['description']} {said}" if written.get("description") else said

    def _items(self, schema: Schema, depth: int, followed: tuple[str, ...]) -> Schema:
        items = schema.get("items")
        places = schema.get("prefixItems") or (items if isinstance(items, list) else None)
        if not places:
            return self.written(items if isinstance(items, dict) else {"type": "string"}, depth + 1, followed)
        found: list[Schema] = []
        for place in places:
            each = self.written(place, depth + 1, followed)
            if each not in found:
                found.append(each)
        return found[0] if len(found) == 1 else {"anyOf": found}

    def _properties(self, schema: Schema, written: Schema, depth: int, followed: tuple[str, ...]) -> None:
        properties = schema.get("properties")
        if not isinstance(properties, dict) or not properties:
            return
        written["properties"] = {name: self.written(value, depth + 1, followed) for name, value in properties.items()}
        required = schema.get("required")
        if isinstance(required, list):
            named = [name for name in required if isinstance(name, str) and name in properties]
            written |= {"required": named} if named else {}


def _is_null(schema: object) -> bool:
    return isinstance(schema, dict) and (schema.get("type") == "null" or schema.get("enum") == [None])


def _kind(schema: Schema) -> str:
    """Return a schema's type, guessed from what it says where it has none."""
    kind = schema.get("type")
    if isinstance(kind, str) and kind.lower() in _TYPES:
        return _TYPES[kind.lower()]
    if "properties" in schema or "additionalProperties" in schema:
        return "OBJECT"
    if "items" in schema or "prefixItems" in schema:
        return "ARRAY"
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list) and values and all(isinstance(value, int | float) for value in values):
        return "BOOLEAN" if all(isinstance(value, bool) for value in values) else "NUMBER"
    return "STRING"


def _merged(schema: Schema, parts: list[Schema]) -> Schema:
    """Return `allOf` as one schema: all properties, all that is required, of anything else the first that says it."""
    whole: Schema = {name: value for name, value in schema.items() if name != "allOf"}
    for part in parts:
        for name, value in part.items():
            said = whole.get(name)
            if name == "properties" and isinstance(value, dict):
                whole[name] = {**value, **(said if isinstance(said, dict) else {})}
            elif name == "required" and isinstance(value, list):
                said = said if isinstance(said, list) else []
                whole[name] = [*said, *(each for each in value if each not in said)]
            else:
                whole.setdefault(name, value)
    return whole


# --- The subset -> JSON Schema --------------------------------------------------------------------------------------


def to_json_schema(schema: Schema, depth: int = 0) -> Schema:
    """Return a schema of Gemini's as JSON Schema: types in small letters, `nullable` as a further type."""
    if depth > _MAX_DEPTH:
        return {}
    written: Schema = {}
    for name, value in schema.items():
        place = _JSON_NAMES.get(name, name)
        if name in ("nullable", "propertyOrdering", "property_ordering") or value is None:
            continue
        written[place] = _json_member(place, value, depth)
    if written.get("format") == "enum":
        del written["format"]
    if schema.get("nullable") is True:
        return _nullable(written)
    return written


_JSON_NAMES = {
    "any_of": "anyOf",
    "min_items": "minItems",
    "max_items": "maxItems",
    "min_length": "minLength",
    "max_length": "maxLength",
    "min_properties": "minProperties",
    "max_properties": "maxProperties",
    "additional_properties": "additionalProperties",
    "defs": "$defs",
    "ref": "$ref",
}


def _json_member(name: str, value: Any, depth: int) -> Any:
    if name == "type" and isinstance(value, str):
        return value.lower()
    if name in _COUNTS and isinstance(value, str) and value.isdigit():
        return int(value)
    if name in ("properties", "$defs") and isinstance(value, dict):
        return {key: to_json_schema(item, depth + 1) if isinstance(item, dict) else item for key, item in value.items()}
    if name == "anyOf" and isinstance(value, list):
        return [to_json_schema(item, depth + 1) if isinstance(item, dict) else item for item in value]
    if name in ("items", "additionalProperties") and isinstance(value, dict):
        return to_json_schema(value, depth + 1)
    return value


def _nullable(schema: Schema) -> Schema:
    if isinstance(schema.get("anyOf"), list):
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    kind = schema.get("type")
    if not isinstance(kind, str):
        return schema
    values = {"enum": [*schema["enum"], None]} if isinstance(schema.get("enum"), list) else {}
    return {**schema, "type": [kind, "null"], **values}
