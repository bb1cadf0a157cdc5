"""What of an API key can be changed once it is issued, and how a change is told: a pure value, beside the key.

Reads no database and knows no secret. Neighbours: `keys.py` (changes a key by it), `forms.py` (asks for it).
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

from accounts.models import ApiKey, Scope

_WORDS: Final = {"name": "name", "scopes": "may", "expires_at": "expires"}


@dataclass(frozen=True, slots=True)
class Settings:
    """What of a key can be changed once it is issued; never its secret, never its environment."""

    name: str
    scopes: tuple[str, ...]
    expires_at: datetime | None

    @classmethod
    def of(cls, api_key: ApiKey) -> Self:
        """Return the settings of a key, its scopes in the order of `Scope`."""
        scopes = tuple(scope.value for scope in Scope if scope in api_key.scopes)
        return cls(api_key.name, scopes, api_key.expires_at)

    @property
    def mark(self) -> str:
        """Return a short text that another setting would change: a form carries what its reader saw."""
        return hashlib.sha256(repr(self._plain()).encode()).hexdigest()[:16]

    def _plain(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "scopes": list(self.scopes),
            "expires_at": self.expires_at and self.expires_at.isoformat(),
        }

    def beside(self, before: "Settings") -> dict[str, Any]:
        """Return what is new against `before`, for the record: both values, and a note in words."""
        old, new = before._plain(), self._plain()
        changed = [name for name in new if new[name] != old[name]]
        words = [f"{_WORDS[name]}: {_said(old[name])} to {_said(new[name])}" for name in changed]
        return {
            "note": "; ".join(words),
            "before": {name: old[name] for name in changed},
            "after": {name: new[name] for name in changed},
        }


def _said(value: str | list[str] | None) -> str:
    return ", ".join(value) if isinstance(value, list) else value or "never"
