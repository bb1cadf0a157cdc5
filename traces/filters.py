"""The filters of the Logs pages: read from an address, asked as a SpanQuery, written back as other addresses.

Everything a list shows is in its address, so that it can be shared and Back works. The environment switch of the rail
is the default of the facet `environment`; an empty `environment=` says all. Never reads the database. Neighbours:
`facets.py` (what can be filtered by), `query.py`, `views.py`.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.http import QueryDict

from traces import query
from traces.facets import FACETS
from traces.query import SpanQuery

RANGES: Final[Mapping[str, tuple[str, timedelta]]] = {
    "1h": ("Last hour", timedelta(hours=1)),
    "24h": ("Last 24 hours", timedelta(hours=24)),
    "7d": ("Last 7 days", timedelta(days=7)),
    "30d": ("Last 30 days", timedelta(days=30)),
}
DEFAULT_RANGE: Final = "24h"
# Every status but OK: what a reader means by "what went wrong".
FAILED: Final = "failed"
_ENVIRONMENT: Final = "environment"
_HOUR: Final = timedelta(hours=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MICROSECOND: Final = timedelta(microseconds=999_999)


@dataclass(frozen=True, slots=True)
class Filters:
    """What the address of a list asks for; `chosen` are the values of each facet, in the order they were added."""

    chosen: Mapping[str, tuple[str, ...]]
    range: str = ""
    since: str = ""
    until: str = ""
    text: str = ""
    # The environment stands in the address; otherwise it is the switch's.
    says_environment: bool = False

    @classmethod
    def read(cls, params: QueryDict, *, environment: str) -> "Filters":
        """Read an address; `environment` is the switch's ("" for all)."""
        chosen = {name: tuple(dict.fromkeys(filter(None, map(str.strip, params.getlist(name))))) for name in FACETS}
        says_environment = _ENVIRONMENT in params
        if not says_environment:
            chosen[_ENVIRONMENT] = (environment,) if environment else ()
        words = {name: params.get(name, "").strip() for name in ("range", "from", "to", "text")}
        return cls(chosen, words["range"], words["from"], words["to"], words["text"], says_environment)

    @property
    def is_empty(self) -> bool:
        """Nothing narrows the list but the default time range and the environment switch."""
        facets = any(values for name, values in self.chosen.items() if name != _ENVIRONMENT or self.says_environment)
        return not (facets or self.range or self.since or self.until or self.text)

    @property
    def range_name(self) -> str:
        """The offered range that is in force; nothing where the window is the reader's own."""
        return "" if self.since or self.until else self.range or DEFAULT_RANGE

    def pairs(self, *, without: Collection[str] = ()) -> Iterator[tuple[str, str]]:
        """Yield the names and values of the address, as a form would send them."""
        for name, values in self.chosen.items():
            if name in without or (name == _ENVIRONMENT and not self.says_environment):
                continue
            yield from ((name, value) for value in values)
            if name == _ENVIRONMENT and not values:
                yield name, ""
        for name, word in (("range", self.range), ("from", self.since), ("to", self.until), ("text", self.text)):
            if word and name not in without:
                yield name, word

    def address(self, **more: str) -> str:
        """Return the query string, with a few more names in it."""
        params = QueryDict(mutable=True)
        for name, value in (*self.pairs(), *more.items()):
            params.appendlist(name, value)
        return f"?{params.urlencode()}"

    def choosing(self, name: str, *values: str) -> "Filters":
        """Return these filters with exactly these values of a facet."""
        says = self.says_environment or name == _ENVIRONMENT
        return replace(self, chosen={**self.chosen, name: values}, says_environment=says)

    def without(self, name: str, value: str) -> "Filters":
        """Return these filters without one value of a facet."""
        return self.choosing(name, *(each for each in self.chosen[name] if each != value))

    def within(self, since: datetime, until: datetime) -> "Filters":
        """Return these filters over another window, to the second; both ends are included."""
        return replace(self, range="", since=f"{since:%Y-%m-%dT%H:%M:%S}", until=f"{until:%Y-%m-%dT%H:%M:%S}")

    def ranged(self, name: str) -> "Filters":
        """Return these filters over an offered range."""
        return replace(self, range=name, since="", until="")

    def searching(self, text: str) -> "Filters":
        """Return these filters with another text."""
        return replace(self, text=text)

    def query(self, *, keys: Mapping[str, Collection[int]], now: datetime, beside: str = "") -> SpanQuery:
        """Return the filters as a query, those of the facet `beside` left out; `keys` as in `parse_conditions`.

        Raises: query.InvalidQuery.
        """
        filters: list[tuple[str, str, list[Any], str]] = []
        for name, values in self.chosen.items():
            if not values or name == beside:
                continue
            if name == "status" and FAILED in values:
                if "ok" not in values:
                    filters.append(("failed", "in", [True], "AND"))
                continue
            filters.append((FACETS[name].field, "in", list(values), "AND"))
        since, until = self._window(now)
        return SpanQuery(
            since=since, until=until, conditions=query.parse_conditions(filters, api_keys=keys), text=self.text
        )

    def _window(self, now: datetime) -> tuple[datetime, datetime]:
        """Return the window of time: the reader's own where it is given, else the chosen range until now.

        Long ranges begin with a full hour: only so are the roll-ups and the list of the same calls.
        """
        found = RANGES.get(self.range or DEFAULT_RANGE)
        if found is None:
            raise query.InvalidQuery("Choose one of the offered time ranges.", param="range")
        until = query.parse_moment(self.until, "to") if self.until else now
        try:
            if self.until and not until.microsecond:
                until += _LAST_MICROSECOND
            if self.since:
                return query.parse_moment(self.since, "from"), until
            since = until - found[1]
            is_aligned = found[1] > _HOUR and not self.text and not self.until
            return since - (since - _EPOCH) % _HOUR if is_aligned else since, until
        except OverflowError as error:
            raise query.InvalidQuery("This time lies too far back.", param="to") from error
