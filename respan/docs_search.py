"""Pure: finds sections of the docs by words, BM25 over weighted fields, in memory.

A word counts more in a title than in a heading, in a heading more than in text, and least in code; two words side by
side in a title, description or heading are found as a phrase too. The last word may be the beginning of one (search as
you type); a word nobody wrote is taken for the nearest that somebody did. A page is found once, by its best section.
Knows no HTML and no files. Neighbours: `docs_pages.py` (sections), `docs.py`.
"""

import bisect
import difflib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Final

from respan.docs_pages import Page, Section

_MOST_CHARS: Final = 300
_MOST_WORDS: Final = 24
_MOST_ENDINGS: Final = 40
_SNIPPET_CHARS: Final = 180
_K1: Final = 4.0
_B: Final = 0.6
# What a word weighs by where it stands.
_OF_PAGE: Final = {"title": 9.0, "called": 6.0, "description": 4.0, "heading": 2.5, "text": 1.0, "code": 0.3}
_OF_SECTION: Final = {"heading": 5.0, "text": 1.0, "code": 0.4}
# What is found at the beginning of a page leads there rather than into one of its sections.
_LEAD: Final = 1.5
# What the best section adds to its page.
_OF_BEST: Final = 0.25
_BEGINNING: Final = 0.6
_SPELLED_ALIKE: Final = 0.7
_SAME_THING: Final = 0.5
_PHRASE: Final = 0.5
_ENDINGS: Final = (
    *(("ies", "y"), ("sses", "ss"), ("ations", "at"), ("ation", "at"), ("ings", ""), ("ing", "")),
    *(
        ("ptions", "pt"),
        ("ption", "pt"),
        ("ctions", "ct"),
        ("ction", "ct"),
        ("ments", ""),
        ("ment", ""),
        ("ically", "ic"),
    ),
)
_WORD = re.compile(r"[a-z0-9]+(?:[_./-][a-z0-9]+)*")
_PART = re.compile(r"[a-z0-9]+")
_STOP: Final = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by can could do does doing for from get gets has have how i if in into is it its "
        "just me my of on or our please should so some than that the their them then there these they this to up was "
        "we were what when where which who why will with would you your d ll re s t ve",
    )
)


@dataclass(frozen=True, slots=True)
class Hit:
    """A page that was found: by which section (`anchor` empty: its beginning), and words of it as plain text."""

    path: str
    title: str
    section: str
    anchor: str
    snippet: str
    score: float

    @property
    def url(self) -> str:
        """The address of the section on this host."""
        page = "/docs/" if self.path == "index" else f"/docs/{self.path}/"
        return f"{page}#{self.anchor}" if self.anchor else page


def root(word: str) -> str:
    """Return what the forms of an English word have in common, roughly: streams, streamed, streaming -> stream."""
    if len(word) < 4 or not word.isalpha():
        return word
    for ending, instead in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return _undoubled(word.removesuffix(ending) + instead)
    if word.endswith("ed") and len(word) > 5:
        return _undoubled(word[:-2])
    if word.endswith("es") and len(word) > 5 and word[-3] in "sxzh":
        return word[:-2]
    if word.endswith("s") and word[-2] not in "sui":
        word = word[:-1]
    return word[:-1] if word.endswith("e") and len(word) > 4 else word


def _undoubled(word: str) -> str:
    """Undo what an ending did: calling -> call, but running -> run, and caching -> cach as cache does."""
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        return word[:-1]
    return word[:-1] if word.endswith("e") and len(word) > 4 else word


def phrases(found: list[str]) -> Iterator[str]:
    """Yield words side by side, by their roots: `provider key`."""
    roots = [root(word) for word in found if word not in _STOP]
    yield from (f"{one} {other}" for one, other in pairwise(roots) if one != other)


def words(text: str) -> Iterator[str]:
    """Yield the words of a text in lower case: a name such as `customer_identifier` whole, and its parts."""
    for found in _WORD.findall(text.lower()):
        parts = _PART.findall(found)
        if len(parts) > 1:
            yield found
        yield from parts


class _Field:
    """An inverted index of documents with weighted fields: root -> {document: weighted count}."""

    def __init__(self) -> None:
        self.postings: dict[str, dict[int, float]] = defaultdict(dict)
        self.lengths: list[float] = []

    def add(self, fields: Iterable[tuple[float, Counter[str]]]) -> None:
        number, length = len(self.lengths), 0.0
        for weight, counts in fields:
            for word, count in counts.items():
                found = self.postings[word]
                found[number] = found.get(number, 0.0) + weight * count
                length += weight * count * (" " not in word)  # a phrase is no longer text than its words
        self.lengths.append(length)

    def rare(self, alternatives: Mapping[str, float]) -> float:
        """Return what one word of a query can weigh at most; 0 where no document has it."""
        return max((self._rare(word) * sure for word, sure in alternatives.items()), default=0.0)

    def _rare(self, word: str) -> float:
        found = len(self.postings.get(word, ()))
        return math.log(1 + (len(self.lengths) - found + 0.5) / (found + 0.5)) if found else 0.0

    def score(self, alternatives: Mapping[str, float]) -> dict[int, float]:
        """Return document -> BM25 for one word of a query: the best of its forms (root -> how sure it is the word)."""
        average = sum(self.lengths) / len(self.lengths)
        scores: dict[int, float] = {}
        for word, sure in alternatives.items():
            rare = self._rare(word) * sure
            for number, count in self.postings.get(word, {}).items():
                length = 1 - _B + _B * self.lengths[number] / average
                score = rare * count * (_K1 + 1) / (count + _K1 * length)
                if score > scores.get(number, 0.0):
                    scores[number] = score
        return scores


class Search:
    """The words of a set of pages, ready to be asked; building takes some milliseconds a page."""

    def __init__(
        self, pages: Iterable[Page], alike: Mapping[str, str], called: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Take pages, words people look for -> the words of the pages that mean the same, apart by spaces, and path ->
        what people call what the page is about.
        """
        self._called = called
        self._pages = list(pages)
        self._alike = {root(word): [root(other) for other in others.split()] for word, others in alike.items()}
        self._sections: list[tuple[int, Section]] = []
        self._of_page, self._of_section = _Field(), _Field()
        spelled: set[str] = set()
        for number, page in enumerate(self._pages):
            self._add(number, page, spelled)
        # Every word as it was written, for beginnings and misspellings.
        self._spelled = sorted(spelled)

    def _add(self, number: int, page: Page, spelled: set[str]) -> None:
        def counted(text: str, *, has_phrases: bool = False) -> Counter[str]:
            found = [word for word in words(text) if word not in _STOP]
            spelled.update(found)
            return Counter([*map(root, found), *(phrases(found) if has_phrases else ())])

        whole: dict[str, Counter[str]] = {name: Counter() for name in ("called", "heading", "text", "code")}
        for section in page.sections:
            fields = {
                name: counted(text, has_phrases=name == "heading")
                for name, text in (("heading", section.title), ("text", section.text), ("code", section.code))
            }
            self._sections.append((number, section))
            self._of_section.add((_OF_SECTION[name], counts) for name, counts in fields.items())
            for name, counts in fields.items():
                whole[name] += counts
        for part in self._called.get(page.path, "").split(","):
            whole["called"] += counted(part, has_phrases=True)
        title = counted(f"{page.title} {page.path.replace('/', ' ')}", has_phrases=True)
        fields = {"title": title, "description": counted(page.description, has_phrases=True), **whole}
        self._of_page.add((_OF_PAGE[name], counts) for name, counts in fields.items())

    def find(self, query: str, limit: int) -> list[Hit]:
        """Return the pages for a query, best first, at most `limit`; nothing for a query without words."""
        asked = self._asked(query)
        if not asked or not self._pages or limit < 1:
            return []
        pages = self._total(self._of_page, asked)
        best: dict[int, tuple[float, int]] = {}
        of_sections = self._total(self._of_section, asked)
        for place, (number, section) in enumerate(self._sections):
            score = of_sections.get(place, 0.0) * (_LEAD if section.level == 1 else 1.0)
            if number in pages and score > best.get(number, (-1.0, 0))[0]:
                best[number] = (score, place)
        scores = {number: pages[number] + _OF_BEST * score for number, (score, _) in best.items()}
        ranked = sorted(scores, key=lambda number: (-scores[number], self._pages[number].path))
        known = {word for alternatives in asked for word in alternatives}
        return [self._hit(number, best[number][1], scores[number], known) for number in ranked[:limit]]

    @staticmethod
    def _total(field: _Field, asked: list[dict[str, float]]) -> dict[int, float]:
        """Add up the words; a document that has more of the different words wins over one that repeats a few."""
        total: dict[int, float] = defaultdict(float)
        had: dict[int, float] = defaultdict(float)
        whole = 0.0
        for alternatives in asked:
            weight = field.rare(alternatives)
            whole += weight
            for number, score in field.score(alternatives).items():
                total[number] += score
                had[number] += weight
        return {number: score * (0.4 + 0.6 * had[number] / whole) for number, score in total.items()}

    def _asked(self, query: str) -> list[dict[str, float]]:
        """Return, for each word of a query, the roots it may stand for and how sure that is."""
        query = query[:_MOST_CHARS].lower()
        found = list(dict.fromkeys(words(query)))[:_MOST_WORDS]
        wanted = [word for word in found if word not in _STOP] or found
        if not wanted:
            return []
        is_whole = not query[-1:].isalnum()
        asked = [self._forms(word, may_go_on=word == wanted[-1] == found[-1] and not is_whole) for word in wanted]
        # A phrase adds to its words: a page that has them apart lacks nothing.
        return asked + [{phrase: _PHRASE} for phrase in phrases(wanted) if phrase in self._of_page.postings]

    def _forms(self, word: str, *, may_go_on: bool) -> dict[str, float]:
        forms = dict.fromkeys(self._alike.get(root(word), ()), _SAME_THING)
        if may_go_on and len(word) > 1:
            start = bisect.bisect_left(self._spelled, word)
            for other in self._spelled[start : start + _MOST_ENDINGS]:
                if not other.startswith(word):
                    break
                forms[root(other)] = max(_BEGINNING, forms.get(root(other), 0.0))
        is_known = root(word) in self._of_page.postings
        if not is_known and not forms and len(word) > 3:
            for other in self._nearest(word):
                forms |= dict.fromkeys(self._alike.get(root(other), ()), _SAME_THING * _SPELLED_ALIKE)
                forms[root(other)] = _SPELLED_ALIKE
        forms[root(word)] = 1.0
        return forms

    def _nearest(self, word: str) -> list[str]:
        """Return words spelled nearly alike: the same first letter, about as long."""
        start, end = (bisect.bisect_left(self._spelled, edge) for edge in (word[0], chr(ord(word[0]) + 1)))
        near = [other for other in self._spelled[start:end] if abs(len(other) - len(word)) < 3]
        return difflib.get_close_matches(word, near, n=2, cutoff=0.78)

    def _hit(self, number: int, section_number: int, score: float, known: set[str]) -> Hit:
        page, section = self._pages[number], self._sections[section_number][1]
        text = section.text or section.code or page.description
        return Hit(
            path=page.path,
            title=page.title,
            section=page.title if section.level == 1 else section.title,
            anchor=section.anchor,
            snippet=snippet(text, known),
            score=round(score, 4),
        )


def snippet(text: str, known: set[str]) -> str:
    """Return about 180 characters of a text, around the first word whose root is known."""
    text = " ".join(text.split())
    if len(text) <= _SNIPPET_CHARS:
        return text
    first = next((found.start() for found in _PART.finditer(text.lower()) if root(found[0]) in known), 0)
    start = max(0, first - _SNIPPET_CHARS // 3)
    if start:
        start = text.rfind(" ", 0, start) + 1
    cut = text[start : start + _SNIPPET_CHARS]
    if start + _SNIPPET_CHARS < len(text):
        cut = f"{cut.rpartition(' ')[0] or cut}…"
    return f"…{cut}" if start else cut
