"""The Docs MCP from outside: the official clients, every version of the protocol, and whoever sends something else."""

import json
import os
import shutil
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import mcp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp.shared.exceptions import MCPError

from respan.mcp import Door, Pace
from tests.servers import Server
from tests.stack import call

# One worker runs them all: they share a web process.
pytestmark = pytest.mark.xdist_group("mcp")

ACCEPT = {"Accept": "application/json, text/event-stream"}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
VERSIONS = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]
NEWEST = "2026-07-28"


@pytest.fixture(scope="module")
def web(django_db_setup, tmp_path_factory):
    """A web process that lets one address ask as often as it likes."""
    folder = tmp_path_factory.mktemp("mcp")
    with Server(data_dir=folder, env={"RESPAN_DOCS_MCP_PER_MINUTE": "1000000"}) as started:
        yield started


@pytest.fixture(scope="module")
def url(web):
    return f"{web.base_url}/mcp/docs"


def post(url, body, **headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return call(url, body=data, headers=ACCEPT | named)


def ask(url, method, params=None, **headers):
    return post(url, {"jsonrpc": "2.0", "id": 7, "method": method, "params": params or {}}, **headers)


def use(url, tool, arguments):
    """Call a tool the way of 2025-06-18; return its answer as JSON."""
    answer = ask(url, "tools/call", {"name": tool, "arguments": arguments}, MCP_Protocol_Version="2025-06-18")
    assert answer.status == 200
    return answer.json


def text_of(result):
    return result.content[0].text


def test_the_sdk_is_loaded_by_the_first_request_that_needs_it(running):
    web = running()
    maps, url = Path(f"/proc/{web.pid()}/maps"), f"{web.base_url}/mcp/docs"
    if not maps.exists():
        pytest.skip("no /proc here to see what a process has loaded")
    assert call(url, headers=ACCEPT).status == 405
    assert post(url, b"{").status == 400
    assert "pydantic_core" not in maps.read_text()
    assert post(url, PING).json["result"] == {}
    assert "pydantic_core" in maps.read_text()


# --- The official client ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["legacy", NEWEST, "auto"])
async def test_the_official_client_lists_searches_and_reads(url, mode):
    async with mcp.Client(url, mode=mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"search_docs", "get_page"}
        assert tools["search_docs"].input_schema["required"] == ["query"]
        assert all(tool.annotations.read_only_hint for tool in tools.values())
        found = text_of(await client.call_tool("search_docs", {"query": "a key for my first call", "max_results": 3}))
        assert found.startswith('Found 3 results for "a key for my first call":\n\n1. **')
        assert found.count("/docs/") >= 3
        page = text_of(await client.call_tool("get_page", {"path": "index"}))
        assert page.startswith("# Respan\n")
        assert "{{" not in page
        resources = (await client.list_resources()).resources
        assert len(resources) > 5
        for resource in resources:
            read = await client.read_resource(resource.uri)
            assert read.contents[0].text.lstrip().startswith("# ")
            assert read.contents[0].mime_type == "text/markdown"


async def test_what_is_not_there_is_said_in_the_protocol(url):
    async with mcp.Client(url) as client:
        with pytest.raises(MCPError) as unknown:
            await client.call_tool("delete_everything", {})
        with pytest.raises(MCPError) as missing:
            await client.read_resource("https://elsewhere.example/docs/index.md")
        nowhere = await client.call_tool("get_page", {"path": "quickstrat"})
    assert (unknown.value.code, missing.value.code) == (-32602, -32602)
    assert nowhere.is_error
    assert "quickstart" in text_of(nowhere)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_that_shakes_hands_gets_its_own(url, version):
    client = {"name": "t", "version": "1"}
    answer = ask(url, "initialize", {"protocolVersion": version, "capabilities": {}, "clientInfo": client})
    assert (answer.status, answer.json["result"]["protocolVersion"]) == (200, version)
    assert answer.json["result"]["serverInfo"]["name"] == "respan-docs"
    assert "mcp-session-id" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"
    initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert post(url, initialized, MCP_Protocol_Version=version).status == 202
    assert len(ask(url, "tools/list", MCP_Protocol_Version=version).json["result"]["tools"]) == 2


def test_a_version_nobody_knows_is_answered_with_one_we_know(url):
    hello = {"protocolVersion": "1999-01-01", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    assert ask(url, "initialize", hello).json["result"]["protocolVersion"] in VERSIONS
    assert ask(url, "tools/list", MCP_Protocol_Version="1999-01-01").status == 400


# --- Pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["quickstart", "/docs/quickstart", "docs/quickstart.md", "quickstart/#streaming"])
def test_a_page_is_found_by_any_spelling_of_its_path(url, path):
    result = use(url, "get_page", {"path": path})["result"]
    assert result["content"][0]["text"].startswith("# Quickstart")
    assert not result["isError"]


def test_a_page_is_found_by_the_address_the_search_gives(url, web):
    found = use(url, "search_docs", {"query": "quickstart"})["result"]["content"][0]["text"]
    address = next(line.strip() for line in found.splitlines() if line.strip().startswith(web.base_url))
    assert use(url, "get_page", {"path": address})["result"]["content"][0]["text"].startswith("# ")


def test_a_search_for_nothing_that_exists_says_so(url):
    assert "Found 0 results" in use(url, "search_docs", {"query": "🦖🦖"})["result"]["content"][0]["text"]


# --- Wrong input ------------------------------------------------------------------------------------------------------

WRONG_ARGUMENTS = [
    ("search_docs", {}),
    ("search_docs", {"query": ""}),
    ("search_docs", {"query": "   "}),
    ("search_docs", {"query": 5}),
    ("search_docs", {"query": None}),
    ("search_docs", {"query": ["a"]}),
    ("search_docs", {"query": "x" * 401}),
    ("search_docs", {"query": "y" * 60_000}),
    ("search_docs", {"query": "x", "max_results": 0}),
    ("search_docs", {"query": "x", "max_results": -1}),
    ("search_docs", {"query": "x", "max_results": 26}),
    ("search_docs", {"query": "x", "max_results": "3"}),
    ("search_docs", {"query": "x", "max_results": True}),
    ("search_docs", {"query": "x", "max_results": 1.5}),
    ("search_docs", {"query": "x", "limit": 3}),
    ("get_page", {}),
    ("get_page", {"path": 3}),
    ("get_page", {"path": "p" * 301}),
    ("get_page", {"path": "../../.env"}),
    ("get_page", {"path": "/etc/passwd"}),
    ("get_page", {"path": "quickstart\u0000"}),
    ("get_page", {"path": "http://["}),
]


@pytest.mark.parametrize(("tool", "arguments"), WRONG_ARGUMENTS, ids=lambda value: str(value)[:40])
def test_wrong_arguments_are_told_to_the_model_that_chose_them(url, tool, arguments):
    result = use(url, tool, arguments)["result"]
    assert result["isError"]
    assert len(result["content"][0]["text"]) < 1000


NO_MESSAGES = [
    (b"", -32700),
    (b"{", -32700),
    (b"\xff\xfe", -32700),
    (b'{"jsonrpc": "2.0", "id": NaN}', -32700),
    (b"[" * 20_000, -32700),
    (b'{"jsonrpc": "2.0", "id": ' + b"9" * 5000 + b', "method": "ping"}', -32700),
    (b"[]", -32600),
    (json.dumps([PING, PING]).encode(), -32600),
    (b'"ping"', -32600),
    (b"null", -32600),
    (json.dumps(PING | {"id": 1 << 63}).encode(), -32600),
    (json.dumps(PING | {"id": "x" * 257}).encode(), -32600),
    (json.dumps(PING | {"id": 1.5}).encode(), -32600),
    (json.dumps(PING | {"id": None}).encode(), -32600),
    (json.dumps(PING | {"id": {}}).encode(), -32600),
]


@pytest.mark.parametrize(("body", "code"), NO_MESSAGES, ids=lambda value: str(value)[:30])
@pytest.mark.parametrize("version", [None, "2025-06-18", NEWEST])
def test_what_is_no_message_is_refused_with_the_protocols_codes(url, body, code, version):
    answer = post(url, body, **({"MCP_Protocol_Version": version} if version else {}))
    assert (answer.status, answer.error["code"]) == (400, code)
    assert answer.json["id"] is None


def test_a_method_that_does_not_exist_is_not_found(url):
    assert ask(url, "prompts/conjure").error["code"] == -32601
    assert use(url, "search_docs", "not an object")["error"]["code"] == -32602
    assert ask(url, "tools/call", {"arguments": {}}).error["code"] == -32602


def test_a_body_over_the_limit_is_refused_and_not_read(url):
    answer = post(url, b'{"a": "' + b"x" * 70_000 + b'"}')
    assert (answer.status, answer.error["code"]) == (413, -32600)


def test_a_body_must_call_itself_json(url):
    assert post(url, PING, Content_Type="text/plain").status == 415
    assert post(url, PING, Accept="text/html").status == 406


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "OPTIONS"])
def test_other_methods_are_answered_as_stateless_servers_do(url, method):
    request = urllib.request.Request(url, method=method, headers=ACCEPT)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    with refused.value as answer:
        assert (answer.code, answer.headers["Allow"]) == (405, "POST")
        error = json.loads(answer.read())
    assert error["error"]["code"] == -32000
    if method == "GET":
        assert error["error"]["message"] == "SSE streams not supported in stateless mode. Use POST for tool calls."
    if method == "DELETE":
        assert error["error"]["message"] == "Session management not supported in stateless mode."


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example:8000"}, 421),
        ({"Host": ""}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "file://localhost"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "http://localhost:6274"}, 200),
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
    ],
    ids=str,
)
def test_only_our_own_names_are_served(url, headers, status):
    assert post(url, PING, **headers).status == status


MEMBERS = st.dictionaries(
    st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error", "x"]),
    st.one_of(
        st.sampled_from(["2.0", "ping", "tools/call", "tools/list", "initialize", "resources/read", "server/discover"]),
        st.sampled_from(["subscriptions/listen", "notifications/cancelled", "logging/setLevel", "completion/complete"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["name", "arguments", "uri", "cursor", "_meta", "protocolVersion", "query", "a"]),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=8,
        ),
    ),
    max_size=6,
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(members=MEMBERS, known=st.booleans(), version=st.sampled_from([None, "2025-06-18", NEWEST, "x"]))
def test_whatever_is_sent_it_is_never_our_error(url, members, known, version):
    body = {"jsonrpc": "2.0", "id": 1, **members} if known else members
    answer = post(url, body, **({"MCP_Protocol_Version": version} if version else {}))
    assert answer.status < 500, answer.body
    assert b"-32603" not in answer.body


def test_nothing_of_all_this_was_an_error_of_the_server(web, url):
    assert post(url, PING).status == 200
    assert "Traceback" not in web.log()


# --- How often --------------------------------------------------------------------------------------------------------


async def knock(door, *, address="192.0.2.1"):
    sent = []

    async def send(message):
        sent.append(message)

    head = [(b"host", b"127.0.0.1:8000"), (b"accept", b"*/*")]
    scope = {"type": "http", "method": "GET", "path": "/mcp/docs", "headers": head, "client": (address, 1)}
    await door({**scope, "query_string": b"", "http_version": "1.1", "server": ("127.0.0.1", 8000)}, None, send)
    return sent[0]["status"], dict(sent[0]["headers"])


async def test_an_address_that_asks_too_often_waits(settings):
    settings.RESPAN_DOCS_MCP_PER_MINUTE = 3
    door = Door()
    assert [(await knock(door))[0] for _ in range(4)] == [405, 405, 405, 429]
    status, headers = await knock(door)
    assert (status, headers[b"retry-after"]) == (429, b"20")
    assert (await knock(door, address="192.0.2.2"))[0] == 405


async def test_addresses_of_one_subscriber_count_together(settings):
    settings.RESPAN_DOCS_MCP_PER_MINUTE = 1
    door = Door()
    assert (await knock(door, address="2001:db8::1"))[0] == 405
    assert (await knock(door, address="2001:db8::ffff"))[0] == 429
    assert (await knock(door, address="2001:db8:0:1::1"))[0] == 405


def test_who_waited_may_ask_again_and_memory_is_bounded():
    pace = Pace(2)
    assert [pace.wait_s("a", 0.0) for _ in range(3)] == [0, 0, 30]
    assert [pace.wait_s("a", 30.0), pace.wait_s("a", 30.0)] == [0, 30]
    for number in range(25_000):
        pace.wait_s(str(number), 31.0)
    assert len(pace._left) <= 10_000


# --- Minutes ----------------------------------------------------------------------------------------------------------


@pytest.mark.long
async def test_a_tool_call_takes_less_than_twenty_milliseconds(url):
    taken = {"search_docs": [], "get_page": []}
    async with mcp.Client(url) as client:
        for number in range(200):
            for tool, arguments in (
                ("search_docs", {"query": f"how do I stream a chat completion {number}"}),
                ("get_page", {"path": "quickstart"}),
            ):
                began = time.perf_counter()
                await client.call_tool(tool, arguments)
                taken[tool].append(1000 * (time.perf_counter() - began))
    for tool, values in taken.items():
        p95 = statistics.quantiles(values, n=20)[-1]
        print(f"{tool}: median {statistics.median(values):.1f} ms, p95 {p95:.1f} ms")
        assert p95 <= 20


_TYPESCRIPT = """
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const client = new Client({ name: "test", version: "1.0.0" });
await client.connect(new StreamableHTTPClientTransport(new URL(process.env.DOCS_MCP)));
const said = async (name, args) => (await client.callTool({ name, arguments: args })).content[0].text;
const { resources } = await client.listResources();
console.log(JSON.stringify({
  tools: (await client.listTools()).tools.map((tool) => tool.name),
  search: await said("search_docs", { query: "streaming" }),
  page: await said("get_page", { path: "quickstart" }),
  resource: (await client.readResource({ uri: resources[0].uri })).contents[0].text,
  unknown: await client.callTool({ name: "nothing", arguments: {} }).then(() => "no error", (error) => error.code),
}));
await client.close();
"""


@pytest.mark.long
def test_the_typescript_client_lists_searches_and_reads(url, tmp_path):
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("Node and npm are not installed")
    install = [npm, "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(tmp_path)]
    made = subprocess.run([*install, "@modelcontextprotocol/sdk@1"], capture_output=True, text=True, timeout=300)
    if made.returncode:
        pytest.skip(f"npm cannot install the SDK: {made.stderr[-300:]}")
    (tmp_path / "ask.mjs").write_text(_TYPESCRIPT)
    env = os.environ | {"DOCS_MCP": url}
    ran = subprocess.run([node, "ask.mjs"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["tools"] == ["search_docs", "get_page"]
    assert said["search"].startswith("Found ")
    assert said["page"].startswith("# Quickstart")
    assert said["resource"].startswith("# ")
    assert said["unknown"] == -32602
