"""Pure: the OpenAPI document as a page of the docs (`docs/api/reference.md`), written by `manage.py api_reference`.

One section for each tag, one for each operation with its parameters, body, answers and a curl sample, and at the end
the shapes that several of them share. The page is a file of the docs like others, so it is searched, served as Markdown
and read by the Docs MCP; a test compares it with the document. Neighbours: `schema.py` (the document), `docs.py`.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

Object = Mapping[str, Any]
_HEAD: Final = """---
title: Endpoints
description: Every endpoint of the API with its parameters, body, answers and a curl sample.
order: 30
---

# Endpoints

Written from the OpenAPI document of the installation: `{{base_url}}/api/schema/` (JSON; YAML with `?format=yaml`).
How keys, errors and pages work stands in [The API](index.md). Optional members may be left out; further members of a
vendor's own format pass too. With the samples, `$RESPAN_API_KEY` is an API key of yours.
"""
# Parts of an address that nobody but the reader knows.
_IDS: Final = {"cache_key": "3f…", "file_id": "file-…", "log_id": "log_…", "public_id": "limit_…"}
_PLACES: Final = {"query": "query", "path": "path", "header": "header"}


def page(document: Object) -> str:
    """Return the whole page, front matter included."""
    operations = list(_operations(document))
    parts = [_HEAD]
    for tag in document["tags"]:
        parts.append(f"## {tag['name']}\n\n{tag['description']}\n")
        parts += [
            _operation(document, method, path, each) for method, path, each in operations if tag["name"] in each["tags"]
        ]
    parts.append("## Shapes\n\nThe objects that the endpoints take and return.\n")
    parts += [_shape(name, schema) for name, schema in document["components"]["schemas"].items()]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _operations(document: Object) -> Iterator[tuple[str, str, Object]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


# --- One operation ---------------------------------------------------------------------------------------------------


def _operation(document: Object, method: str, path: str, operation: Object) -> str:
    parts = [f"### {operation['summary']}\n", f"`{method} {path}`\n"]
    if operation.get("description"):
        parts.append(f"{operation['description']}\n")
    if operation.get("security") == []:
        parts.append("No API key is needed.\n")
    parameters = [_resolved(document, each) for each in operation.get("parameters", ())]
    if parameters:
        parts.append(_table("Parameter", (_parameter_row(each) for each in parameters)))
    if "requestBody" in operation:
        parts.append(_body(operation["requestBody"]))
    parts += [_answers(document, operation["responses"]), _sample(method, path, operation, parameters)]
    return "\n".join(parts)


def _resolved(document: Object, value: Object) -> Object:
    while "$ref" in value:
        found: Any = document
        for name in value["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        value = found
    return value


def _parameter_row(parameter: Object) -> tuple[str, str, str]:
    place = _PLACES[parameter["in"]] + (", required" if parameter.get("required") else "")
    kind = f"{_kind(parameter['schema'])} ({place})"
    return parameter["name"], kind, parameter.get("description", "")


def _body(body: Object) -> str:
    lines = []
    for content_type, media in body["content"].items():
        schema = media["schema"]
        if "$ref" in schema:
            lines.append(f"Body, `{content_type}`: {_kind(schema)}.\n")
        else:
            lines.append(f"Body, `{content_type}`:\n\n{_members(schema)}")
    return "\n".join(lines)


def _answers(document: Object, responses: Object) -> str:
    lines: dict[str, list[str]] = {}
    for status, response in sorted(responses.items()):
        found = _resolved(document, response)
        kinds = [f"`{kind}`: {_said(media['schema'])}" for kind, media in found.get("content", {}).items()]
        line = f"{found['description']} {'; '.join(kinds)}".rstrip(". ") + "."
        if status.startswith("2") and found.get("headers"):
            line += f"\n  Headers: {', '.join(f'`{name}`' for name in found['headers'])}."
        lines.setdefault(line, []).append(f"`{status}`")
    return "Answers:\n\n" + "\n".join(f"- {', '.join(statuses)}: {line}" for line, statuses in lines.items()) + "\n"


def _said(schema: Object) -> str:
    inner = ", ".join(f"`{name}` ({_kind(each)})" for name, each in schema.get("properties", {}).items())
    if inner:
        return f"object with {inner}"
    return str(schema["description"]) if "description" in schema and "$ref" not in schema else _kind(schema)


# --- A sample --------------------------------------------------------------------------------------------------------


def _sample(method: str, path: str, operation: Object, parameters: list[Object]) -> str:
    example = _example(operation)
    lines = [f'curl "{{{{base_url}}}}{_filled(path, parameters)}"']
    if method not in {"GET", "POST"} or (method == "POST" and not example):
        lines.append(f"-X {method}")
    if operation.get("security") != []:
        lines.append('-H "Authorization: Bearer {{api_key}}"')
    if example and "multipart/form-data" in operation.get("requestBody", {}).get("content", ()):
        lines += [f"-F {name}={json.dumps(value)}" for name, value in example.items()]
    elif example:
        lines += ['-H "Content-Type: application/json"', f"-d '{json.dumps(example)}'"]
    if any(kind.startswith("audio/") for kind in operation["responses"].get("200", {}).get("content", ())):
        lines.append("--output answer.mp3")  # no terminal shows sound
    why = _why_not(operation, parameters)
    head = f"```bash no-run\n{why}\n" if why else "```bash\n"
    return head + " \\\n  ".join(lines) + "\n```\n"


def _example(operation: Object) -> Object | None:
    """Return the body's example, wherever it stands (spectacular names examples)."""
    for media in operation.get("requestBody", {}).get("content", {}).values():
        for each in media.get("examples", {}).values():
            return dict(each["value"])
        if "example" in media:
            return dict(media["example"])
    return operation.get("x-sample-body")


def _filled(path: str, parameters: list[Object]) -> str:
    query = []
    for each in parameters:
        value = each.get("example")
        if each["in"] == "path":
            path = path.replace("{%s}" % each["name"], str(value if value is not None else _IDS[each["name"]]))  # noqa: UP031
        elif each["in"] == "query" and value is not None:
            query.append(f"{each['name']}={value}")
    return path + (f"?{'&'.join(query)}" if query else "")


def _why_not(operation: Object, parameters: list[Object]) -> str:
    """Return why the sample does not run as it is, as a comment; "" where it does."""
    if any(each["in"] == "path" and each["name"] in _IDS for each in parameters):
        return "# Put an id of your own into the address."
    return f"# {operation['x-sample-needs']}" if "x-sample-needs" in operation else ""


# --- Shapes ----------------------------------------------------------------------------------------------------------


def _shape(name: str, schema: Object) -> str:
    about = f"{schema['description']}\n\n" if schema.get("description") else ""
    return f"### {name}\n\n{about}{_members(schema)}"


def _members(schema: Object) -> str:
    """Write a table of an object's members, and below it what it shares with other shapes."""
    parts = []
    rows = list(_rows(schema, ""))
    if rows:
        parts.append(_table("Member", rows))
    shared = []
    for each in schema.get("allOf", ()):
        if "$ref" in each:
            shared.append(_kind(each))
        else:
            parts.append(_members(each))
    if shared:
        parts.append(f"And the members of {', '.join(shared)}.\n")
    return "\n".join(parts)


def _rows(schema: Object, within: str) -> Iterator[tuple[str, str, str]]:
    required = schema.get("required", ())
    for name, each in schema.get("properties", {}).items():
        kind = _kind(each) + (", required" if name in required and not within else "")
        yield within + name, kind, each.get("description", "")
        if "properties" in each:
            yield from _rows(each, f"{within}{name}.")
        elif "properties" in each.get("items", {}):
            yield from _rows(each["items"], f"{within}{name}[].")


def _kind(schema: Object) -> str:
    """Return what a value is, in a few words, with a link where it is a shape."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "allOf" in schema and "properties" not in schema:
        return " and ".join(map(_kind, schema["allOf"]))
    if "oneOf" in schema:
        return " or ".join(map(_kind, schema["oneOf"]))
    if "enum" in schema and len(schema["enum"]) <= 8:
        return " or ".join(f"`{value}`" for value in schema["enum"] if value is not None)
    kinds = schema.get("type", "any value")
    words = [_word(kind, schema) for kind in (kinds if isinstance(kinds, list) else [kinds])]
    return " or ".join(words)


def _word(kind: str, schema: Object) -> str:
    items = schema.get("items", {})
    if kind == "array" and ("$ref" in items or isinstance(items.get("type"), str)):
        return f"list of {_kind(items)}"
    if kind == "string" and schema.get("format") == "binary":
        return "file"
    return {"array": "list", "integer": "whole number"}.get(kind, kind)


def _table(name: str, rows: Any) -> str:
    head = f"| {name} | Type | What it is |\n|---|---|---|\n"
    return head + "".join(f"| `{first}` | {_cell(kind)} | {_cell(says)} |\n" for first, kind, says in rows)


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")
