"""What a store of traces promises to ingestion, free of any engine's words. PostgreSQL's is `postgres.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from billing.usage import Usage
from traces.spans import Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A finished call and what the worker found out about it. `cost_nano` None: nobody knows the price."""

    record: Finished
    usage: Usage | None
    usage_source: str
    cost_nano: int | None
    charged_nano: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that the store cannot take, whatever its neighbours are."""

    row: Row
    reason: str


@dataclass(frozen=True, slots=True)
class Charge:
    """What a call was charged in the end, where that differs from what its row said."""

    charged_nano: int
    absorbed_nano: int


class TraceStore(Protocol):
    """All methods but `maintain` run inside the caller's transaction."""

    def write(self, rows: Sequence[Row]) -> list[Refused]:
        """Add spans, bodies and roll-ups of the rows not there yet; a finished call replaces an interrupted one.

        Each call may be among the rows once.
        """

    def correct(self, charges: Mapping[UUID, Charge], rows: Sequence[Row]) -> None:
        """Put the final charges of the rows with these ids into spans and roll-ups."""

    def maintain(self, *, now: datetime, retention_days: int) -> None:
        """Make room for the days to come and drop those beyond the retention. Idempotent."""
