"""The Docs MCP itself: two tools and one resource a page, over the official SDK, stateless streamable HTTP.

Imported with the first request (`respan.mcp`), because the SDK is large; nothing else may import it. The SDK speaks the
protocol of every version it knows; here is only what the tools say. It never searches or reads files itself.
Neighbours: `mcp.py` (the door), `docs.py` (pages and the index).
"""

import asyncio
import logging
from typing import Any, Self

import mcp_types as types
from django.conf import settings
from mcp.server.caching import CacheHint
from mcp.server.lowlevel.server import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError

from respan import docs
from respan.mcp import MAX_BODY_BYTES, Message, Receive, Send

# It tells of every request at INFO.
logging.getLogger("mcp").setLevel(logging.WARNING)

MAX_QUERY_CHARACTERS = 400
MAX_PATH_CHARACTERS = 300
DEFAULT_RESULTS, MAX_RESULTS = 10, 25
NEAREST = 5
# Pages change with the installation's version only.
_FRESH = CacheHint(ttl_ms=300_000, scope="public")

INSTRUCTIONS = (
    "Documentation of this Respan installation, an AI gateway: one API key for every model, with logs, traces and "
    "credits. Use search_docs to find pages, then get_page to read one whole. Addresses and snippets in the pages are "
    "those of this installation."
)
_READ_ONLY = types.ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
TOOLS = [
    types.Tool(
        name="search_docs",
        title="Search the Respan docs",
        description=(
            "Search the documentation of this Respan installation: quickstart, gateway features, SDK integrations, "
            "models, billing, logs, errors, API reference, operation. Returns titles, addresses and descriptions, "
            "best first. Read a page with get_page."
        ),
        input_schema={
            "type": "object",
            "properties": {
                "query": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": MAX_QUERY_CHARACTERS,
                    "description": "A question or a few words, for example: streaming with the Anthropic SDK",
                },
                "max_results": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": MAX_RESULTS,
                    "default": DEFAULT_RESULTS,
                    "description": "How many results at most",
                },
            },
            "required": ["query"],
            "additionalProperties": False,
        },
        annotations=_READ_ONLY,
    ),
    types.Tool(
        name="get_page",
        title="Read a page of the Respan docs",
        description="Return one page of the documentation as Markdown, whole, snippets included.",
        input_schema={
            "type": "object",
            "properties": {
                "path": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": MAX_PATH_CHARACTERS,
                    "description": "The page's path or address as search_docs names it, for example: gateway/streaming",
                }
            },
            "required": ["path"],
            "additionalProperties": False,
        },
        annotations=_READ_ONLY,
    ),
]


class WrongArguments(Exception):
    """Arguments a tool cannot take; the message tells a model what to send instead."""


def _text_of(arguments: dict[str, Any], name: str, limit: int) -> str:
    value = arguments.get(name)
    if not isinstance(value, str) or not value.strip():
        raise WrongArguments(f"`{name}` is required: a text that is not empty.")
    if len(value) > limit:
        raise WrongArguments(f"`{name}` has {len(value)} characters; at most {limit} are accepted.")
    return value.strip()


def _check_names(arguments: dict[str, Any], known: set[str]) -> None:
    if unknown := sorted(arguments.keys() - known):
        named = ", ".join(f"`{name[:40]}`" for name in unknown[:5])
        raise WrongArguments(f"Unknown: {named}. Accepted: {', '.join(f'`{name}`' for name in sorted(known))}.")


def search_docs(arguments: dict[str, Any]) -> str:
    """Answer the tool `search_docs`. Raises: WrongArguments."""
    _check_names(arguments, {"query", "max_results"})
    query = _text_of(arguments, "query", MAX_QUERY_CHARACTERS)
    limit = arguments.get("max_results", DEFAULT_RESULTS)
    if isinstance(limit, float) and limit.is_integer():
        limit = int(limit)  # JSON knows one kind of number
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_RESULTS:
        raise WrongArguments(f"`max_results` must be a whole number from 1 to {MAX_RESULTS}.")
    index = docs.index()
    found = index.search(query, limit)
    if not found:
        return f'Found 0 results for "{query}". Try fewer or other words.'
    lines = [f'Found {len(found)} result{"" if len(found) == 1 else "s"} for "{query}":', ""]
    for number, hit in enumerate(found, start=1):
        page = index.page(hit.path)
        lines += [f"{number}. **{hit.title}**", f"   {index.base_url}{hit.url}"]
        lines += [f"   {line}" for line in (page.description if page else "", hit.snippet) if line]
        lines.append("")
    return "\n".join(lines).rstrip()


def get_page(arguments: dict[str, Any]) -> str:
    """Answer the tool `get_page`. Raises: WrongArguments, also for a page that is not there."""
    _check_names(arguments, {"path"})
    path = _text_of(arguments, "path", MAX_PATH_CHARACTERS)
    index = docs.index()
    page = _page(path)
    if page is not None:
        return index.markdown(page)
    nearest = ", ".join(one.path for one in index.nearest(path, NEAREST))
    raise WrongArguments(f"There is no page {path!r}. " + (f"Nearest: {nearest}." if nearest else "Use search_docs."))


_TOOLS = {"search_docs": search_docs, "get_page": get_page}


async def _list_tools(context: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    return types.ListToolsResult(tools=TOOLS)


async def _call_tool(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    tool = _TOOLS.get(params.name)
    if tool is None:
        raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name[:80]}")
    try:
        return _said(tool(params.arguments or {}))
    except WrongArguments as error:
        # Where the caller's model reads it and can do better (SEP-1303), not as an error of the protocol.
        return _said(str(error), is_error=True)


async def _list_resources(context: Any, params: types.PaginatedRequestParams | None) -> types.ListResourcesResult:
    index = docs.index()
    return types.ListResourcesResult(
        resources=[
            types.Resource(
                uri=index.base_url + page.markdown_url,
                name=page.path,
                title=page.title,
                description=page.description or None,
                mime_type="text/markdown",
            )
            for page in index.pages
        ]
    )


async def _read_resource(context: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    page = _page(params.uri) if len(params.uri) <= MAX_PATH_CHARACTERS else None
    if page is None:
        raise MCPError(types.INVALID_PARAMS, f"Resource not found: {params.uri[:MAX_PATH_CHARACTERS]}")
    text = types.TextResourceContents(uri=params.uri, mime_type="text/markdown", text=docs.index().markdown(page))
    return types.ReadResourceResult(contents=[text])


def _said(text: str, *, is_error: bool = False) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=is_error)


def _page(named: str) -> docs.Page | None:
    """Return a page by its path or by its whole address here."""
    index = docs.index()
    return index.page(named.strip().removeprefix(index.base_url))


def _warm_up() -> None:
    """Read the pages and build the words to search in: tens of milliseconds, which no call may wait for."""
    docs.index().search("quickstart", 1)


class Embedded:
    """The running server. The SDK wants a task group that outlives requests: one task of ours holds it open."""

    def __init__(self) -> None:
        hints = {"tools/list": _FRESH, "resources/list": _FRESH, "resources/read": _FRESH, "server/discover": _FRESH}
        server: Server[Any] = Server(
            "respan-docs",
            version="1.0.0",
            title="Respan docs",
            instructions=INSTRUCTIONS,
            website_url=f"{settings.RESPAN_BASE_URL}/docs/",
            cache_hints=hints,  # type: ignore[arg-type]
            get_tool_input_schema={tool.name: tool.input_schema for tool in TOOLS}.get,
            on_list_tools=_list_tools,
            on_call_tool=_call_tool,
            on_list_resources=_list_resources,
            on_read_resource=_read_resource,
        )
        server.middleware.clear()  # spans for OpenTelemetry, which is not here
        # Host and Origin are the door's business, as is the size.
        self._sessions = StreamableHTTPSessionManager(
            server, json_response=True, stateless=True, max_request_body_size=MAX_BODY_BYTES
        )
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls) -> Self:
        """Start a server; return when it can answer. Raises what kept it from starting."""
        await asyncio.to_thread(_warm_up)
        one = cls()
        one._task = asyncio.create_task(one._run())
        await one._ready.wait()
        if not one.is_alive:
            await one._task
        return one

    async def _run(self) -> None:
        try:
            async with self._sessions.run():
                self._ready.set()
                await self._ended.wait()
        finally:
            self._ready.set()  # nobody waits for what will not come

    @property
    def is_alive(self) -> bool:
        return self._task is not None and not self._task.done()

    async def answer(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._sessions.handle_request(scope, receive, send)

    async def close(self) -> None:
        """End the task group, and wait until it has ended."""
        self._ended.set()
        if self._task is not None:
            await self._task
