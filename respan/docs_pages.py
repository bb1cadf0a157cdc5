"""Pure: one page of the docs out of its file: front matter, title, sections as plain text, links to other pages.

Reads Markdown, never HTML, and knows nothing of drawing. `{{base_url}}` and `{{api_key}}` stay in `Page.source`;
whoever shows a page says what they become. Neighbours: `docs.py` (reads the tree), `docs_drawing.py` (HTML),
`docs_search.py` (finds sections).
"""

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

BASE_URL: Final = "{{base_url}}"
API_KEY: Final = "{{api_key}}"
_ORDERED_LAST: Final = 1_000
_MEMBERS: Final = frozenset({"title", "description", "order"})
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:|//|#|\{\{")


class Malformed(ValueError):
    """A page that cannot be read; the message names its file."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands below it. `anchor` is empty for what stands before the second heading of a page."""

    title: str
    anchor: str
    level: int
    text: str
    code: str


@dataclass(frozen=True)
class Page:
    """A page. `path` is its address below /docs/ ("gateway/streaming"; "index" for the first page).

    `source` is the Markdown without front matter, placeholders in place.
    """

    path: str
    title: str
    description: str
    order: float
    source: str = field(repr=False)

    @property
    def folder(self) -> str:
        """The folder of the navigation the page stands in; "" for the pages of the root."""
        return self.path.partition("/")[0] if "/" in self.path else ""

    @property
    def url(self) -> str:
        """The page's address on this host."""
        return "/docs/" if self.path == "index" else f"/docs/{self.path}/"

    @property
    def markdown_url(self) -> str:
        """The address of the page as Markdown."""
        return f"/docs/{self.path}.md"

    def markdown(self, *, base_url: str, api_key: str) -> str:
        """Return the Markdown with the placeholders replaced."""
        return self.source.replace(BASE_URL, base_url).replace(API_KEY, api_key)

    @cached_property
    def sections(self) -> list[Section]:
        """What the page says, heading by heading, as plain text."""
        return list(_sections(parser().parse(self.source), self.title))


def parser() -> MarkdownIt:
    """Return a parser of what pages are written in: CommonMark and tables, no HTML."""
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


def read(path: str, text: str) -> Page:
    """Return the page of a file; `path` is its name below docs/ without `.md`.

    Raises: Malformed without front matter, with a member it does not know, or without exactly one first-level heading.
    """
    facts, source = _front_matter(f"docs/{path}.md", text.replace("\r\n", "\n"))
    headings = re.findall(r"^# .+$", re.sub(r"^(`{3,}|~{3,}).*?^\1", "", source, flags=re.M | re.S), re.M)
    if len(headings) != 1:
        raise Malformed(f"docs/{path}.md: a page has one first-level heading, this one has {len(headings)}.")
    return Page(
        path=path,
        title=facts["title"],
        description=facts.get("description", ""),
        order=_order(f"docs/{path}.md", facts.get("order")),
        source=source.strip() + "\n",
    )


def _front_matter(file: str, text: str) -> tuple[dict[str, str], str]:
    """Split `---`, `name: value` lines, `---` from the page; a value may stand in quotes."""
    found = re.match(r"---\n(.*?)\n---[ ]*\n", text, re.S)
    if not found:
        raise Malformed(f"{file}: the page does not begin with front matter (--- title, description, order ---).")
    facts: dict[str, str] = {}
    for line in found[1].splitlines():
        if not line.strip():
            continue
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        if not colon or name not in _MEMBERS or name in facts:
            raise Malformed(f"{file}: front matter cannot have the line {line!r}.")
        facts[name] = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
    if not facts.get("title"):
        raise Malformed(f"{file}: front matter has no title.")
    return facts, text[found.end() :]


def _order(file: str, value: str | None) -> float:
    if value is None:
        return _ORDERED_LAST
    try:
        return float(value)
    except ValueError:
        raise Malformed(f"{file}: the order {value!r} is no number.") from None


def plain(token: Token) -> str:
    """Return the words of an inline token, without marks and addresses."""
    words = []
    for child in token.children or []:
        if child.type in ("text", "code_inline"):
            words.append(child.content)
        elif child.type in ("softbreak", "hardbreak"):
            words.append(" ")
        elif child.type == "image":
            words.append(child.content)
    return "".join(words)


def anchors(tokens: list[Token]) -> Iterator[tuple[int, int, str, str]]:
    """Yield (index of the token, level, words, anchor) of every heading; anchors are unique in a page."""
    used: dict[str, int] = {}
    for number, token in enumerate(tokens):
        if token.type != "heading_open":
            continue
        words = plain(tokens[number + 1])
        anchor = re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", words.strip().lower())) or "section"
        used[anchor] = used.get(anchor, 0) + 1
        if used[anchor] > 1:
            anchor = f"{anchor}-{used[anchor] - 1}"
        yield number, int(token.tag[1]), words, anchor


def _sections(tokens: list[Token], title: str) -> Iterator[Section]:
    """Cut a page at its headings of the second and third level."""
    starts = {number: (level, words, anchor) for number, level, words, anchor in anchors(tokens) if level < 4}
    now: tuple[int, str, str] = (1, title, "")
    text: list[str] = []
    code: list[str] = []
    for number, token in enumerate(tokens):
        if number in starts:
            if text or code:
                yield Section(now[1], now[2], now[0], " ".join(text), "\n".join(code))
            level, words, anchor = starts[number]
            now, text, code = (level, words, anchor if level > 1 else ""), [], []
        elif token.type == "inline" and number - 1 not in starts:
            text.append(plain(token))
        elif token.type in ("fence", "code_block"):
            code.append(token.content)
    yield Section(now[1], now[2], now[0], " ".join(text), "\n".join(code))


def target(path: str, link: str) -> str | None:
    """Return the page that a relative link of page `path` leads to (its path below docs/); None for any other link."""
    if not link or _SCHEME.match(link):
        return None
    file = link.partition("#")[0].partition("?")[0]
    if file.startswith("/docs/"):
        return canonical(file)
    if not file.endswith(".md") or file.startswith("/"):
        return None
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(path), file))
    return None if wanted.startswith("..") else canonical(wanted)


def canonical(path: str) -> str:
    """Return the path of a page from any spelling of it: `/docs/gateway/streaming/`, `gateway/streaming.md#why`."""
    path = path.partition("#")[0].partition("?")[0].strip().strip("/")
    path = path.removeprefix("docs/") if path != "docs" else ""
    return path.removesuffix(".md").strip("/") or "index"
