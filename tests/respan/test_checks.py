"""Unsafe configuration is refused; the defaults and a proper production are not."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.contrib import admin
from django.core.checks import CheckMessage, Tags, run_checks

from respan import checks

ROOT = Path(__file__).resolve().parents[2]
KEY = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
PRODUCTION = {
    "HOST": "0.0.0.0",
    "RESPAN_BASE_URL": "https://respan.example.com",
    "DATABASE_URL": "postgres://respan:respan@127.0.0.1:1/respan",
    "SECRET_KEY": "x7" * 40 + "!#%abcdefgh",
    "RESPAN_KEY_PEPPER": "0123456789" * 4,
    "RESPAN_KEYS": f"k1:{KEY}",
    "SECURE_SSL_REDIRECT": "true",
}


def _ids(found: list[CheckMessage]) -> list[str]:
    return [str(message.id) for message in found]


def _all() -> list[str]:
    return _ids(
        [
            *checks.check_secrets(None),
            *checks.check_exposure(None),
            *checks.check_networks(None),
            *checks.check_figures(None),
        ]
    )


@pytest.fixture
def public(settings: Any) -> Any:
    """Settings of an installation that others can reach, safe in every way."""
    settings.RESPAN_IS_LOOPBACK = False
    settings.RESPAN_BASE_URL = "https://respan.example.com"
    settings.ALLOWED_HOSTS = ["respan.example.com"]
    return settings


def test_defaults_are_accepted() -> None:
    assert _all() == []


def test_proper_production_is_accepted(public: Any) -> None:
    assert _all() == []


@pytest.mark.parametrize(
    ("name", "value", "refusal"),
    [
        ("SECRET_KEY", "short", "respan.E001"),
        ("SECRET_KEY", "", "respan.E001"),
        ("RESPAN_KEY_PEPPER", "short", "respan.E002"),
        ("RESPAN_KEYS", "", "respan.E003"),
        ("RESPAN_BASE_URL", "respan.example.com", "respan.E004"),
        ("RESPAN_BASE_URL", "https://respan.example.com/api", "respan.E004"),
        ("DEBUG", True, "respan.E005"),
        ("RESPAN_BASE_URL", "http://respan.example.com", "respan.E006"),
        ("ALLOWED_HOSTS", ["*"], "respan.E007"),
        ("RESPAN_TRUSTED_PROXIES", ["10.0.0.0/33"], "respan.E008"),
        ("RESPAN_TRUSTED_PROXIES", ["0.0.0.0/0"], "respan.E009"),
        ("RESPAN_UPSTREAM_ALLOW", ["10.0.0.5"], "respan.E010"),
        ("RESPAN_UPSTREAM_ALLOW", ["10.0.0.5:0"], "respan.E010"),
        ("RESPAN_UPSTREAM_ALLOW", ["169.254.169.254:80"], "respan.E011"),
        ("REDIS_URL", "redis.example.com:6379", "respan.E014"),
        ("REDIS_URL", "http://redis.example.com", "respan.E014"),
        ("RESPAN_GAP_TIMEOUT_S", 0.0, "respan.E012"),
        ("RESPAN_WEB_PROCESSES", 0, "respan.E012"),
        ("RESPAN_SIGNUP_GRANT_USD", "much", "respan.E013"),
        ("RESPAN_SIGNUP_GRANT_USD", "-1", "respan.E013"),
    ],
)
def test_unsafe_setting_is_refused(public: Any, name: str, value: Any, refusal: str) -> None:
    setattr(public, name, value)
    assert _all() == [refusal]


def test_plain_http_is_allowed_where_the_operator_says_so(public: Any) -> None:
    public.RESPAN_BASE_URL = "http://respan.internal:8000"
    public.RESPAN_ALLOW_HTTP = True
    assert _all() == []


def test_loopback_address_on_a_public_port_is_a_warning(public: Any) -> None:
    public.RESPAN_BASE_URL = "http://127.0.0.1:8000"
    assert _all() == ["respan.W001"]


@pytest.mark.parametrize(
    "ring",
    [
        KEY, "k1:", "k1:AAAA", f"k1:{KEY},k1:{KEY}", f"k1:{KEY},", "k1:not base64!", f"bad kid:{KEY}",
    ],
)  # fmt: skip
def test_malformed_key_ring_is_refused_without_showing_it(settings: Any, ring: str) -> None:
    settings.RESPAN_KEYS = ring
    (found,) = checks.check_secrets(None)
    assert found.id == "respan.E003"
    assert KEY not in f"{found.msg} {found.hint}"


def test_several_keys_in_the_ring_are_accepted(settings: Any) -> None:
    settings.RESPAN_KEYS = f"k2:{'B' + KEY[1:]},k1:{KEY}"
    assert checks.check_secrets(None) == []


def _check(**env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "RESPAN_ENV_FILE": os.devnull, **PRODUCTION, **env},
        capture_output=True,
        text=True,
    )


def test_production_passes_djangos_own_deployment_checks() -> None:
    done = _check()
    assert done.returncode == 0, done.stderr


def test_the_console_passes_djangos_own_checks_once_it_is_loaded() -> None:
    importlib.import_module("respan.urls")
    assert len(admin.site._registry) > 15
    assert run_checks(tags=[Tags.admin]) == []


def test_check_command_stops_at_an_unsafe_setting() -> None:
    done = _check(RESPAN_KEYS="k1:AAAA")
    assert done.returncode != 0
    assert "RESPAN_KEYS key k1 has 3 bytes instead of 32" in done.stderr
