"""What the documentation says is so: links lead somewhere, and what can be counted is what the code has.

Parameters, errors, endpoints, settings, prices' arithmetic and limits are read out of the pages' tables and compared
with the modules that act on them. Neighbours: `pages.py`, `test_snippets.py`.
"""

import posixpath
import re
from decimal import Decimal

import pytest
from django.core.management import get_commands
from django.urls import Resolver404, resolve

from billing.usage import Rates, Usage, cost, explain, nano_from_usd, usd
from gateway import api as gateway_api
from gateway import attachments, cache, call, call_settings, execution_params, outgoing, params, rest_api, urls
from gateway.dialects import anthropic_encode, registry
from gateway.params import MAX_IDENTIFIER, MAX_METADATA_MEMBERS, MAX_METADATA_VALUE, Retry
from respan.api import OPERATORS
from respan.errors import Error
from respan.management.commands.doctor import AREAS
from tests.docs.pages import DOCS, ROOT, Page, pages, words
from tests.respan.test_errors import every_error
from tests.respan.test_settings import _documented as settings_of_the_example
from traces import download, query

ALL = pages()
EVERY_PAGE = pytest.mark.parametrize("page", ALL.values(), ids=ALL)
# Where SDKs are pointed at: no endpoints themselves.
BASES = {
    *("/api", "/api/anthropic", "/api/anthropic/v1", "/api/openai/v1"),
    *("/api/google/gemini", "/api/google/gemini/v1beta", "/api/google/vertexai"),
}
# What a page says is not there: as soon as it is, the page has to say something else.
NAMED_AS_MISSING = {
    "integrations/respan-tracing.md": {
        *("/api/v2/traces", "/api/v1/traces", "/api/v1/traces/ingest", "/api/request-logs/"),
    },
}
_PATH = re.compile(r"(?:\{\{base_url\}\}|(?<=[`\s]))(?P<path>/api(?:/[A-Za-z0-9_./:{}%-]*)?)")
_FILLED = {"model": "gpt-5.4", "file_id": "file-1", "provider": "openai", "log_id": "log_1", "surface": "gemini"}


# --- The pages themselves --------------------------------------------------------------------------------------------


@EVERY_PAGE
def test_a_page_begins_with_its_facts_and_has_one_title(page):
    assert {"title", "description", "order"} <= page.front.keys()
    Decimal(page.front["order"])
    assert len([title for level, title in page.headings if level == 1]) == 1


@EVERY_PAGE
def test_no_link_is_broken(page):
    assert [target for target in page.links if not _leads_somewhere(page, target)] == []


def _leads_somewhere(page: Page, target: str) -> bool:
    if re.match(r"(?:https?|mailto):", target):
        return True
    path, _, anchor = target.partition("#")
    if path.startswith(("{{base_url}}", "/")):
        return _is_served(path.removeprefix("{{base_url}}"))
    if not path:
        return anchor in page.anchors
    found = posixpath.normpath(posixpath.join(posixpath.dirname(page.path), path))
    if found in ALL:
        return not anchor or anchor in ALL[found].anchors
    return not anchor and (DOCS / found).resolve().is_relative_to(ROOT) and (DOCS / found).exists()


def _is_served(path: str) -> bool:
    try:
        resolve(path)
    except Resolver404:
        return path.startswith("/mcp/")  # served beside Django
    return True


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_no_link_of_the_first_pages_is_broken(name):
    links = [link for link in Page(name, (ROOT / name).read_text()).links if not link.startswith(("http", "#"))]
    assert [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []


# --- Endpoints -------------------------------------------------------------------------------------------------------


@EVERY_PAGE
def test_every_address_of_the_api_that_a_page_names_exists(page):
    named = {match["path"] for match in _PATH.finditer(page.source)}
    wanted = {path for path in named if _filled(path).rstrip("/") not in BASES}
    assert {path for path in wanted if not _is_served(_filled(path))} == NAMED_AS_MISSING.get(page.path, set())


def _filled(path: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: _FILLED.get(match[1], "x"), path).replace("%2F", "/").rstrip(".:")


def test_the_table_of_endpoints_is_complete():
    named = [words(row[0])[0].split() for row in ALL["gateway/dialects.md"].table("Endpoints")]
    found: dict[str, set[str]] = {}
    for method, path in named:
        found.setdefault(resolve(_filled(path)).url_name, set()).add(method)
    served = {pattern.name: _methods(pattern.callback) for pattern in urls.urlpatterns}
    assert {name: methods for name, methods in found.items() if not name.startswith("request-log")} == served


def _methods(view) -> set[str]:
    return {name for name in ("GET", "POST", "DELETE") if hasattr(view.view_class, name.lower())}


# --- Parameters ------------------------------------------------------------------------------------------------------


def _named(page: str, heading: str) -> list[str]:
    return [name for row in ALL[page].table(heading) for name in words(row[0])]


def test_parameters_that_act_are_those_of_the_code():
    assert sorted(_named("gateway/parameters.md", "Parameters that act")) == sorted(params.ACTING)


def test_parameters_without_effect_are_those_of_the_code():
    assert sorted(_named("gateway/parameters.md", "Accepted, no effect yet")) == sorted(params.ANNOUNCED)


def test_carriers_are_those_of_the_code():
    text = ALL["gateway/parameters.md"].prose
    assert all(f"`{name}`" in text for name in params.CARRIERS)
    assert all(f"`{name.removeprefix('HTTP_').replace('_', '-').title()}`" in text for name in params.HEADERS)


# --- Errors ----------------------------------------------------------------------------------------------------------


def _error_rows() -> dict[str, str]:
    page = ALL["gateway/errors.md"]
    headings = [title for level, title in page.headings if level == 2]
    tables = [page.table(heading) for heading in headings if heading not in ("Shape", "Only in logs")]
    rows = [(words(row[0])[0], row[1]) for table in tables for row in table]
    assert len(rows) == len(dict(rows)), "a code stands in two tables"
    return dict(rows)


def test_every_error_code_is_documented_and_no_other():
    assert _error_rows().keys() == {error.code for error in every_error()} | {Error.code}


def test_an_error_is_documented_with_its_status():
    """`upstream_error` has besides its own the status that the provider answered with: its class cannot know it."""
    rows = {code: status for code, status in _error_rows().items() if code != "upstream_error"}
    errors = [error for error in {*every_error(), Error} if error.code in rows]
    assert [error.code for error in errors if str(error.status) != rows[error.code]] == []


# --- Settings --------------------------------------------------------------------------------------------------------


def test_a_setting_is_documented_with_its_default():
    """Words instead of a value (`.env`, a name that follows from others) stand where there is no fixed default."""
    shown = {}
    for line in ALL["operate/settings.md"].prose.splitlines():
        if line.startswith("| `"):
            setting, default, *_ = (cell.strip() for cell in line.split("|")[1:])
            shown[words(setting)[0]] = default
    fixed = {name: value for name, value in settings_of_the_example().items() if value is not None}
    assert {name: shown[name] for name in fixed} == {name: f"`{value}`" for name, value in fixed.items()}


def test_every_setting_is_documented_and_no_other():
    named = set()
    for line in ALL["operate/settings.md"].prose.splitlines():
        if line.startswith("|"):
            named |= {name for name in words(line.split("|")[1]) if re.fullmatch(r"[A-Z][A-Z0-9_]+", name)}
    assert named == set(settings_of_the_example())


def test_every_setting_that_a_page_names_exists():
    known = {*settings_of_the_example(), *_SETTINGS_OF_OTHERS}
    pattern = re.compile(r"`(RESPAN_[A-Z0-9_]+)`")
    named = {(page.path, name) for page in ALL.values() for name in pattern.findall(page.prose)}
    unknown = [(path, name) for path, name in sorted(named) if not known & {name, name.removesuffix("_FILE")}]
    assert [each for each in unknown if not each[1].startswith("RESPAN_PLATFORM_KEY_")] == []


# What clients, tests and builds read from their environment.
_SETTINGS_OF_OTHERS = {"RESPAN_API_KEY", "RESPAN_RECORDINGS", "RESPAN_PICTURES", "RESPAN_BATCHING_ENABLED"}


# --- Commands --------------------------------------------------------------------------------------------------------

OPERATORS_PAGES = {
    **{f"docs/{path}": page.source for path, page in ALL.items()},
    **{name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")},
}


@pytest.mark.parametrize("path", OPERATORS_PAGES)
def test_every_command_that_a_page_names_exists(path):
    text = OPERATORS_PAGES[path]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?<![\w-])make ([a-z-]+)(?=`|\n|\s+#)", text)) <= targets
    assert set(re.findall(r"manage\.py ([a-z_]+)", text)) <= get_commands().keys()


def test_areas_of_the_doctor_are_those_of_the_code():
    assert {words(row[0])[0] for row in ALL["operate/troubleshooting.md"].table("Troubleshooting")} == set(AREAS)


# --- Arithmetic ------------------------------------------------------------------------------------------------------

CHARGES = ALL["billing/charges.md"]
EXAMPLES = [title for _, title in CHARGES.headings if title.startswith("Example")]
# Label of a line -> the member of the usage, the member of the rates.
CLASSES = {
    "Input": ("input_tokens", "input"),
    "Input read from cache": ("cache_read_input_tokens", "cache_read"),
    "Input written to cache": ("cache_creation_input_tokens", "cache_write"),
    "Input written to cache for an hour": ("cache_creation_1h_input_tokens", "cache_write_1h"),
    "Output": ("output_tokens", "output"),
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_arithmetic_of_an_example_is_that_of_the_ledger(example):
    *rows, (_, _, _, total) = CHARGES.table(example)
    quantities = {label: int(quantity) for label, quantity, _, _ in rows}
    counted = {CLASSES[label][0]: quantity for label, quantity in quantities.items()}
    counted["input_tokens"] = sum(quantity for label, quantity in quantities.items() if label != "Output")
    prices = {CLASSES[label][1]: nano_from_usd(price) for label, _, price, _ in rows}
    usage, rates = Usage(**counted), Rates(**({"input": 0, "output": 0} | prices))
    shown = [(line.label, str(line.quantity), line.price, line.amount) for line in explain(usage, rates)]
    assert shown == [tuple(row) for row in rows]
    assert usd(cost(usage, rates)) == total


def test_there_are_examples_of_every_kind_of_token_but_hours():
    shown = {row[0] for example in EXAMPLES for row in CHARGES.table(example)}
    assert shown >= CLASSES.keys() - {"Input written to cache for an hour"}


def test_the_classes_of_a_charge_are_those_of_the_ledger():
    full = Usage(
        input_tokens=10,
        output_tokens=1,
        cache_read_input_tokens=1,
        cache_creation_input_tokens=2,
        cache_creation_1h_input_tokens=1,
        images=1,
    )
    lines = explain(full, Rates(input=1, output=1, image=1, request=1))
    assert [row[0] for row in CHARGES.table("Classes")] == [line.label for line in lines]


# --- Figures in the text ---------------------------------------------------------------------------------------------

LIMITS = [
    ("gateway/images.md", f"{attachments.MAX_FILE_BYTES >> 20} MB"),
    ("gateway/images.md", f"{attachments.MAX_BYTES >> 20} MB, {attachments.MAX_FILES} files"),
    ("gateway/images.md", f"{attachments.TOTAL_S:g} seconds"),
    ("gateway/images.md", f"| redirects | {attachments.MAX_REDIRECTS} |"),
    ("gateway/parameters.md", f"Cut at {MAX_IDENTIFIER} characters"),
    ("gateway/parameters.md", f"{MAX_METADATA_MEMBERS} members at most"),
    ("gateway/parameters.md", f"{MAX_METADATA_VALUE:,} characters"),
    ("gateway/parameters.md", f"with a warning | 1 to {execution_params.MAX_TIMEOUT_S:g} s |"),
    ("gateway/parameters.md", f"| 1 to 590 s | {outgoing.WHOLE_LIMITS['total']:g}, a whole answer"),
    ("gateway/parameters.md", f"590, a whole answer {outgoing.WHOLE_LIMITS['first_byte']:g} |"),
    ("gateway/parameters.md", f"590 s | {outgoing.STREAM_LIMITS['first_byte']:g}, of a model that thinks"),
    ("gateway/parameters.md", f"how long the answer is kept | 1 to {cache.MAX_TTL_S} s"),
    ("gateway/parameters.md", f"at first {call_settings.DEFAULTS.cache_ttl_s} |"),
    ("gateway/parameters.md", f"`num_retries` ({Retry().num_retries}), `retry_after` ({Retry().retry_after_s:g} s"),
    ("billing/credits.md", f"or {call.DEFAULT_MAX_OUTPUT:,} tokens"),
    ("billing/credits.md", f"Below {call.LEAST_CLAMPED_OUTPUT} tokens"),
    ("billing/credits.md", f"plus {call.TOKENS_PER_MESSAGE} tokens a message"),
    ("observability/logs.md", f"{download.MAX_ROWS:,} rows"),
    ("observability/api.md", f"{query.MAX_SEARCH_WINDOW.days} days at most"),
]


@pytest.mark.parametrize(("page", "words"), LIMITS)
def test_a_limit_in_the_text_is_that_of_the_code(page, words):
    assert words in ALL[page].prose


def test_efforts_become_the_budgets_of_the_code():
    shown = {
        name: int(row[1].replace(",", ""))
        for row in ALL["gateway/thinking.md"].table("Ask for it")
        for name in words(row[0])
    }
    assert shown == anthropic_encode.BUDGETS


def test_log_types_are_those_of_the_code():
    made = {client.log_type for client in (*registry.CLIENTS.values(), *registry.GEMINI_EMBEDDINGS.values())}
    made |= {operation.log_type for operation in rest_api.OPERATION_PATHS.values()} | {rest_api.COMPLETIONS.log_type}
    assert set(_named("observability/log-types.md", "Log types")) == made


def test_operators_of_filters_are_those_of_the_code():
    shown = {name for row in ALL["observability/api.md"].table("Filters") for name in words(row[0])}
    assert {OPERATORS[name] for name in shown} == set(OPERATORS.values())


def test_fields_of_logs_are_those_of_the_code():
    code = "".join((ROOT / "traces" / name).read_text() for name in ("export.py", "api.py"))
    known = set(re.findall(r'"(\w+)":', code))
    shown = {name for row in ALL["observability/api.md"].table("Fields of a log") for name in words(row[1])}
    assert shown <= known


def test_fields_of_filters_are_those_of_the_code():
    text = ALL["observability/api.md"].prose
    listed = re.search(r"^Fields are those of a log, for example (?P<names>.*?)\.$", text, re.M | re.S)
    assert listed
    assert set(words(listed["names"])) - {"metadata__<key>"} <= query.FIELDS.keys()


def test_headers_of_answers_are_those_of_the_code():
    sources = "".join(path.read_text() for path in (ROOT / "gateway").glob("*.py"))
    shown = {name for name in _named("gateway/dialects.md", "Headers of an answer") if name.startswith("X-Respan-")}
    assert shown <= set(re.findall(r"X-Respan-[A-Za-z-]+", sources))
    assert gateway_api.GatewayView.client is registry.OPENAI_CHAT  # other addresses answer as OpenAI does
