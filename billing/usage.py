"""What a call used and what that costs: the arithmetic of money, pure and exact.

Responsible for `cost` (a charge), `worst` (a hold), `explain` (the lines of a page) and the text form of an amount.
Never knows a database, a clock, a provider's name or a float: amounts are integers of nano-USD (10^-9 USD), prices are
nano-USD per 1,000,000 tokens, and every call is rounded up once, at its end.
Neighbours: `prices.py` (which rates), `ledger.py` (holds and charges), the worker that accounts for finished calls.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from msgspec import Struct

NANO = 1_000_000_000
MILLION = 1_000_000

# More than any wallet holds: its nano-USD fill not half of a BIGINT.
LARGEST_USD = 4_000_000_000

# The answer of `affordable_output` where output costs nothing: more than any model writes.
UNLIMITED_TOKENS = 1_000_000_000


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens of one answer, named as OpenTelemetry's GenAI conventions name them."""

    # The total, with what was read from and written to a cache.
    input_tokens: int = 0
    # The total, with reasoning.
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    # All cache writes, and the part of them that is kept for an hour.
    cache_creation_input_tokens: int = 0
    cache_creation_1h_input_tokens: int = 0
    reasoning_output_tokens: int = 0
    # Images of the input that are priced by the piece, not by tokens.
    images: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Prices in nano-USD per 1,000,000 tokens; `request` per call and `image` per image in nano-USD."""

    input: int
    output: int
    # None: the same as `input`.
    cache_read: int | None = None
    cache_write: int | None = None
    # None: the same as `cache_write`.
    cache_write_1h: int | None = None
    request: int = 0
    image: int = 0

    @property
    def cache_read_or_input(self) -> int:
        return self.input if self.cache_read is None else self.cache_read

    @property
    def cache_write_or_input(self) -> int:
        return self.input if self.cache_write is None else self.cache_write

    @property
    def cache_write_1h_or_input(self) -> int:
        return self.cache_write_or_input if self.cache_write_1h is None else self.cache_write_1h

    @property
    def dearest_input(self) -> int:
        """Return the most that one input token can cost."""
        return max(self.input, self.cache_read_or_input, self.cache_write_or_input, self.cache_write_1h_or_input)


@dataclass(frozen=True, slots=True)
class Line:
    """One class of a charge: `quantity` x `price_nano` for each `per` of them."""

    label: str
    quantity: int
    price_nano: int
    per: int

    @property
    def amount_micro_nano(self) -> int:
        """Return the exact amount in millionths of a nano-USD: prices are per million, so it is an integer."""
        return self.quantity * self.price_nano * (MILLION // self.per)

    @property
    def price(self) -> str:
        """Return the price as text, for example `$0.15`."""
        return usd(self.price_nano)

    @property
    def amount(self) -> str:
        """Return the exact amount as text, also where it is a fraction of a nano-USD."""
        return _text(self.amount_micro_nano, 15)


def _lines(usage: Usage, rates: Rates) -> Iterable[Line]:
    """Yield every priced class. What a provider reports wrongly (negative, parts above the whole) counts as zero."""
    read = max(usage.cache_read_input_tokens, 0)
    written = max(usage.cache_creation_input_tokens, 0)
    hour = min(max(usage.cache_creation_1h_input_tokens, 0), written)
    fresh = max(usage.input_tokens - read - written, 0)
    yield Line("Input", fresh, rates.input, MILLION)
    yield Line("Input read from cache", read, rates.cache_read_or_input, MILLION)
    yield Line("Input written to cache", written - hour, rates.cache_write_or_input, MILLION)
    yield Line("Input written to cache for an hour", hour, rates.cache_write_1h_or_input, MILLION)
    yield Line("Output", max(usage.output_tokens, 0), rates.output, MILLION)
    yield Line("Images", max(usage.images, 0), rates.image, 1)
    yield Line("Request", 1, rates.request, 1)


def _ceil(micro_nano: int) -> int:
    return -(-micro_nano // MILLION)


def cost(usage: Usage, rates: Rates) -> int:
    """Return the charge in nano-USD: one multiplication for each token class, one rounding up at the end."""
    return _ceil(sum(line.amount_micro_nano for line in _lines(usage, rates)))


def explain(usage: Usage, rates: Rates) -> list[Line]:
    """Return the lines whose sum, rounded up to a nano-USD once, is `cost`; classes that were not used are left out."""
    return [line for line in _lines(usage, rates) if line.quantity and (line.price_nano or line.per == MILLION)]


def worst(*, input_tokens: int, output_tokens: int, rates: Rates, images: int = 0) -> int:
    """Return the most a call can cost in nano-USD: every input token at the dearest input price.

    For any usage within these bounds `cost` is not more than this.
    """
    tokens = input_tokens * rates.dearest_input + output_tokens * rates.output
    return _ceil(tokens) + images * rates.image + rates.request


def affordable_output(*, available: int, input_tokens: int, rates: Rates, images: int = 0) -> int:
    """Return the largest number of output tokens whose `worst` fits into `available` nano-USD; 0 when none does."""
    fixed = input_tokens * rates.dearest_input + (images * rates.image + rates.request) * MILLION
    left = available * MILLION - fixed
    if left < 0:
        return 0
    return min(left // rates.output, UNLIMITED_TOKENS) if rates.output else UNLIMITED_TOKENS


def _text(units: int, places: int) -> str:
    """Write `units` of 10^-places USD with all their digits: at least two after the point, no trailing zero beyond."""
    whole, rest = divmod(abs(units), 10**places)
    fraction = str(rest).zfill(places).rstrip("0").ljust(2, "0")
    return f"{'-' if units < 0 else ''}${whole:,}.{fraction}"


def usd(nano: int) -> str:
    """Return an amount as exact text: `$312.48`, `$0.00031`. It never rounds, so it is `$0.00` for zero only."""
    return _text(nano, 9)


_USD = re.compile(r"-?\$?(?:\d+|\d{1,3}(?:,\d{3})+)?(?:\.\d+)?", re.ASCII)


def nano_from_usd(text: str | Decimal) -> int:
    """Return the nano-USD of an amount such as `12.50`, `$1,250` or `0.000000001`.

    Raises: ValueError where it is no number or has more than nine digits after the point.
    """
    if isinstance(text, str):
        text = text.strip()
        if not _USD.fullmatch(text) or not any(map(str.isdigit, text)):
            raise ValueError(f"{text[:40]!r} is not an amount of US dollars")
        text = text.replace("$", "").replace(",", "")
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{str(text)[:40]!r} is not an amount of US dollars") from None
    if not amount.is_finite() or abs(amount) >= LARGEST_USD:
        raise ValueError("The amount is out of range")
    numerator, denominator = amount.as_integer_ratio()
    nano, rest = divmod(numerator * NANO, denominator)
    if rest:
        raise ValueError("An amount has at most nine digits after the point")
    return nano
