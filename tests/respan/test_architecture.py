"""The rules of the house (docs/architecture.md) that a linter of modules cannot say, read from the source itself."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
APPS = ("accounts", "billing", "traces", "gateway")  # from the ground up: each may know those before it
PACKAGES = ("respan", *APPS)

PURE = (
    "billing.usage",
    "traces.spans",
    "traces.query",
    "traces.decisions",
    "traces.conversation",
    "traces.otlp",
    "traces.logs",
    "gateway.routing",
    "gateway.balancing",
    "gateway.framing",
    "gateway.signing",
    "gateway.multipart",
    "gateway.cache_key",
)
PURE_PACKAGES = ("gateway.dialects",)
IMPURE = {
    "django", "rest_framework", "celery", "kombu", "httpx", "aiohttp", "requests", "urllib.request", "psycopg",
    "psycopg_pool", "socket", "asyncio", "threading", "time", "random", "secrets", "os", "subprocess", "structlog",
    "logging", "respan.settings", "respan.pool", "respan.redis", "respan.outbound",
}  # fmt: skip
# Values and pure functions beside impure ones: the root error, the public form of ids, the catalogue's dataclasses.
PURE_MAY_ALSO_IMPORT = {"respan.errors", "respan.ids", "gateway.dialects", "gateway.providers.Model"}
# Clock and randomness hide in modules that are fine otherwise.
IMPURE_CALLS = {"now", "utcnow", "today", "uuid1", "uuid4", "new_uuid", "urandom", "open"}

FLOOR = {
    "errors", "ids", "api", "pages", "charts", "sheets", "pool", "loops", "messages", "redis", "outbound", "sealing",
    "shared", "leaving", "logging", "templatetags",
}  # fmt: skip
# What other apps may enter an app by. The roof (the rest of respan) may enter anywhere.
DOORS = {
    "accounts": {
        "models",
        "console",
        "keys",
        "signup",
        "tenancy",
        "authentication",
        "audit",
        "organizations",
        "factor_sealing",
    },
    "billing": {"usage", "prices", "ledger", "limits"},
    "traces": {"spans", "intake", "reading", "query", "figures", "seeding"},
    "gateway": set(),
}
HTTP_CLIENTS = {"aiohttp", "requests", "urllib3", "urllib.request", "http.client"}
MAY_OPEN_HTTP = {"respan.outbound", "respan.management.commands.up"}  # the latter asks itself whether it is ready
MAY_ENCRYPT = {"respan.sealing", "gateway.signing"}
OURS = {"sandbox", "custom"}  # catalogue entries that are no vendor's
# Dialects, kinds of keys and attributes that a provider is named like; and who writes code for people to copy.
OTHER_MEANINGS = {"anthropic", "bedrock", "cohere", "google", "vertex", "meta"}
NAMES_SDKS = {"traces.snippets", "gateway.snippets"}
MAX_LINES = 600
MAX_FUNCTION_LINES = 70
FORBIDDEN_NAMES = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "manager",
    "managers",
    "service",
    "services",
    "core",
    "misc",
}


class Import(NamedTuple):
    """One import: the module that imports, what it imports (as deep as it says), and the line."""

    module: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def _sources() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "migrations" not in path.parts:
                yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path


def _imports() -> Iterator[Import]:
    for module, path in _sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                for name in node.names:
                    yield Import(module, name.name, node.lineno)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module}:{node.lineno}: imports are absolute here"
                for name in node.names:
                    yield Import(module, f"{node.module}.{name.name}", node.lineno)


ALL_IMPORTS = list(_imports())


def _is(target: str, names: set[str]) -> bool:
    return any(target == name or target.startswith(f"{name}.") for name in names)


def _is_pure(module: str) -> bool:
    return module in PURE or module.startswith(tuple(f"{package}." for package in PURE_PACKAGES))


def _is_floor(module: str) -> bool:
    return module.startswith("respan.") and module.split(".")[1] in FLOOR


def test_every_init_is_empty() -> None:
    assert [module for module, path in _sources() if path.name == "__init__.py" and path.read_text().strip()] == []


def test_apps_look_one_way() -> None:
    def looks_up(found: Import) -> bool:
        source, target = found.module.split(".")[0], found.target.split(".")[0]
        return source in APPS and target in APPS and APPS.index(target) > APPS.index(source)

    assert [str(found) for found in ALL_IMPORTS if looks_up(found)] == []


def test_floor_knows_no_app_and_no_roof() -> None:
    def breaks(found: Import) -> bool:
        parts = found.target.split(".")
        is_roof = parts[0] == "respan" and len(parts) > 1 and parts[1] not in FLOOR
        return _is_floor(found.module) and (parts[0] in APPS or is_roof)

    assert [str(found) for found in ALL_IMPORTS if breaks(found)] == []


def test_nobody_imports_the_roof() -> None:
    def breaks(found: Import) -> bool:
        parts = found.target.split(".")
        return found.module.split(".")[0] in APPS and parts[0] == "respan" and len(parts) > 1 and parts[1] not in FLOOR

    assert [str(found) for found in ALL_IMPORTS if breaks(found)] == []


def test_pure_modules_read_no_clock_no_network_no_settings() -> None:
    assert [str(found) for found in ALL_IMPORTS if _is_pure(found.module) and _is(found.target, IMPURE)] == []
    calls = []
    for module, path in _sources():
        if not _is_pure(module):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name in IMPURE_CALLS:
                    calls.append(f"{module}:{node.lineno} calls {name}")
    assert calls == []


def test_pure_modules_import_only_pure_ones_of_ours() -> None:
    def breaks(found: Import) -> bool:
        if not _is_pure(found.module) or found.target.split(".")[0] not in PACKAGES:
            return False
        modules = {found.target, found.target.rpartition(".")[0]}
        return not any(_is_pure(module) for module in modules) and not _is(found.target, PURE_MAY_ALSO_IMPORT)

    assert [str(found) for found in ALL_IMPORTS if breaks(found)] == []


def test_apps_enter_each_other_by_their_doors() -> None:
    def breaks(found: Import) -> bool:
        source, (target, *rest) = found.module.split(".")[0], found.target.split(".")
        return source in APPS and target in APPS and source != target and bool(rest) and rest[0] not in DOORS[target]

    assert [str(found) for found in ALL_IMPORTS if breaks(found)] == []


def test_only_the_transport_opens_sockets() -> None:
    assert [
        str(found) for found in ALL_IMPORTS if _is(found.target, HTTP_CLIENTS) and found.module not in MAY_OPEN_HTTP
    ] == []


def test_only_credentials_and_signing_encrypt() -> None:
    assert [
        str(found) for found in ALL_IMPORTS if _is(found.target, {"cryptography"}) and found.module not in MAY_ENCRYPT
    ] == []


def test_provider_names_stay_in_the_catalogue() -> None:
    providers = {path.stem for path in (ROOT / "gateway" / "catalog").glob("*.toml")} - OURS - OTHER_MEANINGS
    assert providers
    found = []
    for module, path in _sources():
        if module.startswith("gateway.dialects.") or module in NAMES_SDKS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.lower() in providers:
                found.append(f"{module}:{node.lineno} names {node.value}")
    assert found == []


def test_files_and_functions_stay_readable() -> None:
    found = []
    for module, path in _sources():
        text = path.read_text()
        tree = ast.parse(text)
        if text.count("\n") > MAX_LINES:
            found.append(f"{module} has {text.count(chr(10))} lines")
        if text.strip() and not ast.get_docstring(tree):
            found.append(f"{module} does not say what it is responsible for")
        if path.stem in FORBIDDEN_NAMES:
            found.append(f"{module} has a name that says nothing")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    found.append(f"{module}.{node.name} has {lines} lines")
    assert found == []


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_are_where_the_rules_look_for_them(module: str) -> None:
    later = {"traces.otlp", "traces.logs"}  # arrive with trace ingestion
    assert (ROOT / Path(*module.split("."))).with_suffix(".py").exists() or module in later
