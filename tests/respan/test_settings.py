"""`.env.example` documents every setting, with its true default."""

import ast
import re
from pathlib import Path

import environ

ROOT = Path(__file__).resolve().parents[2]
# Read outside settings.py, or a family of names.
ELSEWHERE = {"RESPAN_PLATFORM_KEY_OPENAI", "RESPAN_PLATFORM_URL_OPENAI"}
# No settings of ours: many programs read them.
OF_THE_MACHINE = {"PATH", "DJANGO_SETTINGS_MODULE", "SSL_CERT_FILE", "SSL_CERT_DIR"}
PACKAGES = ("respan", "accounts", "billing", "traces", "gateway")


def _documented() -> dict[str, str | None]:
    """Return each setting of `.env.example` with the default it shows, None where it shows an example."""
    found: dict[str, str | None] = {}
    for line in (ROOT / ".env.example").read_text().splitlines():
        match = re.fullmatch(r"(# )?([A-Z][A-Z0-9_]*)=(.*)", line)
        if match:
            assert match[2] not in found, f"{match[2]} is documented twice"
            found[match[2]] = None if match[1] else match[3]
    return found


def _read() -> dict[str, tuple[str, ast.expr | None]]:
    """Return each setting that settings.py reads from the environment, its type and its default."""
    found: dict[str, tuple[str, ast.expr | None]] = {}
    for node in ast.walk(ast.parse((ROOT / "respan" / "settings.py").read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if isinstance(node.func.value, ast.Name) and node.func.value.id == "env" and node.args:
            name = ast.literal_eval(node.args[0])
            default = next((word.value for word in node.keywords if word.arg == "default"), None)
            found[name] = (node.func.attr, default)
    return found


def _constant(expression: ast.expr) -> object:
    """Return the value of an expression without names (`32 * 1024`), None for one that follows from other settings."""
    if any(isinstance(node, ast.Name) for node in ast.walk(expression)):
        return None
    return eval(compile(ast.Expression(expression), "settings.py", "eval"), {"__builtins__": {}})  # noqa: S307


def test_every_setting_is_documented_and_nothing_else() -> None:
    assert _documented().keys() - ELSEWHERE == _read().keys()


def test_no_module_reads_a_setting_that_is_not_documented() -> None:
    """Whatever the code reads from the environment by name, wherever it does, stands in `.env.example`."""
    documented = _documented().keys()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            names = set(
                re.findall(
                    r"""(?:environ\.get\(|environ\[|getenv\(|env\.\w+\()\s*["']([A-Z][A-Z0-9_]+)""", path.read_text()
                )
            )
            assert names - OF_THE_MACHINE <= documented, path


def test_documented_defaults_are_the_real_ones() -> None:
    documented = _documented()
    for name, (kind, default) in _read().items():
        shown = documented[name]
        assert default is not None, f"{name} has no default: a start without it would fail with a traceback"
        fixed = _constant(default)
        if fixed in ("", None, []):
            assert shown is None, f"{name} has no fixed default, but .env.example shows one"
            continue
        assert shown is not None, f"{name} has a default that .env.example does not show"
        env = environ.Env()
        env.ENVIRON = {name: shown}
        assert getattr(env, kind)(name) == fixed
