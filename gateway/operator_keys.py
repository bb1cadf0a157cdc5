"""The operator's provider keys in the environment: `RESPAN_PLATFORM_KEY_<ID>`, `..._FILE`, `RESPAN_PLATFORM_URL_<ID>`.

They are read at every use and stored nowhere. Neighbour: `credentials.py`, the only one who asks.
"""

import os
from functools import lru_cache
from pathlib import Path

from django.conf import settings


def key(provider_id: str) -> str:
    """Return the key of a provider, empty when the environment has none."""
    name = settings.RESPAN_PLATFORM_KEY_PREFIX + _variable(provider_id)
    if path := os.environ.get(f"{name}_FILE"):
        return _file(path)
    return os.environ.get(name, "").strip()


def base_url(provider_id: str) -> str:
    """Return where a provider's calls go instead of the catalogue's address, empty when nothing is said."""
    return os.environ.get(f"RESPAN_PLATFORM_URL_{_variable(provider_id)}", "").strip().rstrip("/")


@lru_cache(maxsize=64)
def _file(path: str) -> str:
    return Path(path).read_text("utf-8").strip()


def _variable(provider_id: str) -> str:
    return provider_id.upper().replace("-", "_")
