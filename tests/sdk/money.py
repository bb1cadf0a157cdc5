"""What a call to a fake vendor must cost, worked out from what the vendor reported and nothing of the product's.

Neighbours: `tests/vendors/catalogue.py` (the prices), `test_cross.py`.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tests.vendors.catalogue import PRICE

# nano-USD for one token: a price is USD per million.
_NANO = {kind: int(Decimal(usd) * 1_000) for kind, usd in PRICE.items()}


@dataclass(frozen=True)
class Metered:
    """Tokens of a call, counted as everybody counts them: the input with what the cache held of it."""

    input: int
    output: int
    read: int = 0
    written_5m: int = 0
    written_1h: int = 0

    @property
    def cost_nano(self) -> int:
        fresh = self.input - self.read - self.written_5m - self.written_1h
        return (
            fresh * _NANO["input"]
            + self.read * _NANO["cache_read"]
            + self.written_5m * _NANO["cache_write"]
            + self.written_1h * _NANO["cache_write_1h"]
            + self.output * _NANO["output"]
        )


def metered(usage: dict[str, Any]) -> Metered:
    """Read the usage a vendor reported, whosever shape it has."""
    if "promptTokenCount" in usage:
        return Metered(
            usage["promptTokenCount"],
            usage.get("candidatesTokenCount", 0) + usage.get("thoughtsTokenCount", 0),
        )
    if "cache_creation" in usage:
        written = usage["cache_creation"]
        read, both = usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
        return Metered(
            usage["input_tokens"] + read + both,
            usage["output_tokens"],
            read,
            written["ephemeral_5m_input_tokens"],
            written["ephemeral_1h_input_tokens"],
        )
    return Metered(
        usage.get("prompt_tokens") or usage["input_tokens"],
        usage.get("completion_tokens") or usage["output_tokens"],
    )
