"""What a finished call used and what it costs, when its provider said so and when it did not.

Responsible for the token count of delivered text (tiktoken's o200k_base from a file we ship, loaded at its first use,
never downloaded) and for the rules of who pays what. Never touches a wallet: `billing.ledger` settles what `cost_of`
says. Neighbours: `traces.loading`, `billing.usage`.
"""

import base64
import hashlib
from functools import lru_cache
from pathlib import Path

import tiktoken
import zstandard
from msgspec import structs

from billing.usage import Rates, Usage, cost
from traces import spans
from traces.spans import Finished

_FILE = Path(__file__).parent / "data" / "tiktoken" / "o200k_base.tiktoken.zst"
_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
# The pattern of tiktoken_ext.openai_public.o200k_base, which could only be had with its download.
_PATTERN = "|".join(
    [
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""\p{N}{1,3}""",
        r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""",
        r"""\s*[\r\n]+""",
        r"""\s+(?!\S)""",
        r"""\s+""",
    ]
)
_SPECIAL = {"<|endoftext|>": 199_999, "<|endofprompt|>": 200_018}
TOKENS_PER_IMAGE = 1_000
# tiktoken's regular expression overflows its stack on a million spaces: it is given pieces.
_PIECE_CHARS = 50_000
# Beyond this a text (no model reads as much) is estimated from its beginning: a batch has seconds, not minutes.
_COUNTED_CHARS = 2_000_000
# More tokens than this are a provider's mistake, and no column's business.
_MOST_TOKENS = 2**31 - 1


class DamagedFile(Exception):
    """The shipped token file is not the one tiktoken's o200k_base is made of."""


@lru_cache(maxsize=1)
def _encoding() -> tiktoken.Encoding:
    """Load the encoding: 0.5 s and some 80 MB, once for each process that ever needs it."""
    data = zstandard.ZstdDecompressor().decompress(_FILE.read_bytes())
    if hashlib.sha256(data).hexdigest() != _SHA256:
        raise DamagedFile(str(_FILE))
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in data.splitlines())}
    return tiktoken.Encoding("o200k_base", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens=_SPECIAL)


def _pieces(text: str) -> list[str]:
    """Cut a long text, after a space where there is one near: a token seldom reaches across."""
    pieces, begin = [], 0
    while begin < len(text):
        end = begin + _PIECE_CHARS
        if end < len(text):
            space = text.rfind(" ", end - 1_000, end)
            end = space if space > begin else end
        pieces.append(text[begin:end])
        begin = end
    return pieces


def count(text: str) -> int:
    """Return the number of o200k_base tokens of a text (beyond two million characters: an estimate)."""
    if not text:
        return 0
    counted = text[:_COUNTED_CHARS]
    tokens = sum(len(_encoding().encode_ordinary(piece)) for piece in _pieces(counted))
    return tokens if len(counted) == len(text) else tokens * len(text) // len(counted)


def usage_of(record: Finished) -> tuple[Usage | None, str]:
    """Return a call's usage and its source: `exact` (the provider's), `counted` (ours) or `none`.

    A call whose content may not be kept was counted, roughly, before it came here.
    """
    if record.usage is not None:
        return _sane(record.usage), "counted" if record.usage_source == "counted" else "exact"
    if record.counting is None:
        return None, "none"
    counting = record.counting
    usage = Usage(
        input_tokens=count(counting.input_text) + TOKENS_PER_IMAGE * max(0, counting.images),
        output_tokens=count(counting.output_text),
    )
    return _sane(usage), "counted"


def _sane(usage: Usage) -> Usage:
    wrong = {
        name: max(0, min(value, _MOST_TOKENS))
        for name in usage.__struct_fields__
        if not 0 <= (value := getattr(usage, name)) <= _MOST_TOKENS
    }
    return structs.replace(usage, **wrong) if wrong else usage


def cost_of(record: Finished, usage: Usage | None, rates: Rates | None) -> int | None:
    """Return what a call costs in nano-USD; None when nobody knows.

    An answer without a single token that did not end as answers do costs nothing, nor does a call that failed before
    it delivered: on credits that is a promise, and with an own key the provider charges nothing for it either. A client
    who leaves after the provider has taken the call pays for its input all the same: the provider charges it.
    """
    if record.free or record.cached or record.paid_by in {"free", "nobody"}:
        return 0
    failed = record.status != spans.OK
    if usage is None:
        return 0 if failed or record.paid_by == "credits" else None
    is_empty = usage.output_tokens == 0 and (record.status == spans.ERROR or record.finish_reason in {None, "error"})
    if is_empty and record.status != spans.ABORTED:
        return 0
    return None if rates is None else cost(usage, rates)
