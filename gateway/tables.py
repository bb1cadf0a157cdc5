"""Reading a TOML table strictly: each key once, with its type; what is left unread is a mistake, named with its file.

Knows nothing of what the tables mean. Neighbours: `providers.py` (what the gateway reads), `catalog_sources.py` (what
the builder of the catalogue reads).
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from billing.usage import nano_from_usd

# Written in a file where a fact is not known: left out would look like forgotten.
UNKNOWN = "unknown"


class CatalogError(Exception):
    """A catalogue file is wrong. The message names the file and the key."""


_REQUIRED: Any = object()


class Table:
    """One TOML table, read key by key; what is left unread at `finish` is an unknown key."""

    def __init__(self, values: dict[str, Any], place: str) -> None:
        self._values = dict(values)
        self._known: set[str] = set()
        self.place = place

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """Read a file. Raises: CatalogError."""
        try:
            return cls(tomllib.loads(path.read_text("utf-8")), path.name)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise CatalogError(f"{path.name}: not valid TOML: {error}") from None

    def error(self, key: str, problem: str) -> CatalogError:
        return CatalogError(f"{self.place}: key {key!r}: {problem}")

    def has(self, key: str) -> bool:
        return key in self._values

    def finish(self) -> None:
        """Refuse what was not read. Raises: CatalogError."""
        for key in self._values:
            if key not in self._known:
                close = difflib.get_close_matches(key, self._known, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise CatalogError(f"{self.place}: unknown key {key!r}{hint}")

    def _take(self, key: str, kind: type, default: Any, said: str) -> Any:
        self._known.add(key)
        if key not in self._values:
            if default is _REQUIRED:
                # A misspelt key is reported as such, rather than as the missing one it stands for.
                raise CatalogError(f"{self.place}: missing key {key!r}{self._misspelt(key)}")
            return default
        value = self._values[key]
        if type(value) is not kind:  # exactly: a TOML boolean must not pass for an integer
            raise self.error(key, f"must be {said}, not {value!r}")
        return value

    def _misspelt(self, key: str) -> str:
        close = difflib.get_close_matches(key, [name for name in self._values if name not in self._known], n=1)
        return f"; unknown key {close[0]!r}" if close else ""

    def text(
        self,
        key: str,
        *,
        among: frozenset[str] | None = None,
        pattern: re.Pattern[str] | None = None,
        default: str = _REQUIRED,
    ) -> str:
        value: str = self._take(key, str, default, "a string")
        if key in self._values:
            self._check_word(key, value, among, pattern)
        return value

    def _check_word(
        self, key: str, value: str, among: frozenset[str] | None, pattern: re.Pattern[str] | None = None
    ) -> None:
        if not value:
            raise self.error(key, "must not be empty")
        if among is not None and value not in among:
            raise self.error(key, f"must be one of {', '.join(sorted(among))}, not {value!r}")
        if pattern is not None and not pattern.fullmatch(value):
            raise self.error(key, f"has characters that are not allowed: {value!r}")

    def flag(self, key: str, *, default: bool = _REQUIRED) -> bool:
        value: bool = self._take(key, bool, default, "true or false")
        return value

    def count(self, key: str, *, default: Any = _REQUIRED) -> Any:
        value = self._take(key, int, default, "a whole number")
        if key in self._values and value <= 0:
            raise self.error(key, f"must be above zero, not {value}")
        return value

    def count_or_unknown(self, key: str) -> int | None:
        if self._values.get(key) == UNKNOWN:
            self._known.add(key)
            return None
        value: int = self.count(key)
        return value

    def words(
        self,
        key: str,
        *,
        among: frozenset[str] | None = None,
        pattern: re.Pattern[str] | None = None,
        default: tuple[str, ...] = _REQUIRED,
    ) -> tuple[str, ...]:
        values = self._take(key, list, default, "a list of strings")
        for value in values:
            if type(value) is not str:
                raise self.error(key, f"must be a list of strings, not of {value!r}")
            self._check_word(key, value, among, pattern)
        if len(set(values)) != len(values):
            raise self.error(key, "names something twice")
        return tuple(values)

    def day(self, key: str) -> date | None:
        day: date | None = self._take(key, date, None, "a date without quotes")
        return day

    def renames(self, key: str) -> Mapping[str, str]:
        values = self.texts(key)
        for old, new in values.items():
            if not new:
                raise self.error(f"{key}.{old}", "must not be empty")
        return values

    def texts(self, key: str) -> Mapping[str, str]:
        values = self._take(key, dict, {}, "a table of strings")
        for name, value in values.items():
            if type(value) is not str:
                raise self.error(f"{key}.{name}", "must be a string")
        return MappingProxyType(dict(values))

    def tables(self, key: str, *, default: Any = _REQUIRED) -> list["Table"]:
        values = self._take(key, list, default, "a list of tables")
        for value in values:
            if type(value) is not dict:
                raise self.error(key, f"must be a list of tables, not of {value!r}")
        return [Table(value, f"{self.place}: {key}[{number}]") for number, value in enumerate(values, start=1)]

    def price(self, key: str) -> "Table | None":
        """Return the table of a price; None where the file says that it is unknown."""
        if self._values.get(key) == UNKNOWN:
            self._known.add(key)
            return None
        return Table(self._take(key, dict, _REQUIRED, f'a table or "{UNKNOWN}"'), f"{self.place}: {key}")

    def usd(self, key: str, *, default: Any = _REQUIRED) -> Any:
        text = self._take(key, str, default, "a decimal number in quotes")
        if key not in self._values:
            return default
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,9})?", text):
            raise self.error(key, f"must be US dollars in quotes with at most nine decimals, not {text!r}")
        return nano_from_usd(text)
