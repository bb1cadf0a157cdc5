"""Pure: a page of the docs as HTML: anchors, links to other pages, code in colours, languages as tabs, tables.

Everything is Markdown's own tokens, changed before they are written; raw HTML in a page stays text, and no style stands
in the page (the Content-Security-Policy allows none): colours are classes of `assets/docs.css`. Placeholders become
words no page has, so that what replaces them is not cut into pieces by the colours. Neighbours: `docs_pages.py`,
`docs_views.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from itertools import count
from typing import Final

from markdown_it.token import Token

from respan.docs_pages import API_KEY, BASE_URL, Page, anchors, parser, target

_BASE_URL_WORD: Final = "RspPlaceOfBaseUrl"
_API_KEY_WORD: Final = "RspPlaceOfApiKey"
# What a kind of token is shown as: the first that contains it, in pygments' own names.
_COLOURS: Final = (
    ("Token.Comment", "hl-comment"),
    ("Token.Keyword", "hl-keyword"),
    ("Token.Operator.Word", "hl-keyword"),
    ("Token.Literal.String", "hl-string"),
    ("Token.Literal.Number", "hl-number"),
    ("Token.Name.Function", "hl-name"),
    ("Token.Name.Class", "hl-name"),
    ("Token.Name.Decorator", "hl-name"),
    ("Token.Name.Builtin", "hl-name"),
    ("Token.Name.Tag", "hl-member"),
    ("Token.Name.Attribute", "hl-member"),
    ("Token.Name.Variable", "hl-member"),
)
# Levels of headings that the on-page contents list.
_CONTENTS: Final = (2, 3)
_TABS: Final = {"python": "Python", "typescript": "TypeScript", "javascript": "JavaScript", "bash": "Shell"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the on-page contents."""

    level: int
    title: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """A page as HTML, with words in the places of the reader's base URL and key."""

    html: str
    contents: tuple[Entry, ...]

    def filled(self, *, base_url: str, api_key: str) -> str:
        """Return the HTML for one reader; what is given is escaped."""
        return self.html.replace(_BASE_URL_WORD, escape(base_url)).replace(_API_KEY_WORD, escape(api_key))


@lru_cache(maxsize=300)
def draw(page: Page) -> Drawing:
    """Return a page as HTML; kept, since a page with much code takes some tens of milliseconds."""
    markdown = parser()
    tokens = markdown.parse(page.source.replace(BASE_URL, _BASE_URL_WORD).replace(API_KEY, _API_KEY_WORD))
    found = list(anchors(tokens))
    shown = 0
    for number, level, words, anchor in found:
        # One step down at a time, for those who walk by headings; what the contents list is the page's own level.
        shown = min(level, shown + 1)
        tokens[number].tag = tokens[number + 2].tag = f"h{shown}"
        _anchor(tokens[number], tokens[number + 1], level, words, anchor)
    for token in tokens:
        _link(token, page.path)
    html = markdown.renderer.render(list(_tables(_fences(tokens))), markdown.options, {})
    contents = tuple(Entry(level, words, anchor) for _, level, words, anchor in found if level in _CONTENTS)
    return Drawing(html, contents)


def _anchor(opening: Token, inline: Token, level: int, words: str, anchor: str) -> None:
    """Give a heading an id, and those of the contents a link to themselves."""
    opening.attrSet("id", anchor)
    if level in _CONTENTS:
        label = escape(f"Link to {words}")
        link = f' <a class="docs-anchor" href="#{escape(anchor)}" aria-label="{label}">#</a>'
        inline.children = [*(inline.children or []), _html(link, "html_inline")]


def _html(text: str, kind: str = "html_block") -> Token:
    return Token(kind, "", 0, content=text)


def _link(token: Token, path: str) -> None:
    """Let links between files lead to the pages."""
    for child in token.children or []:
        href = str(child.attrGet("href") or "") if child.type == "link_open" else ""
        wanted = target(path, href)
        if wanted is not None:
            fragment = href.partition("#")[2]
            page = "/docs/" if wanted == "index" else f"/docs/{wanted}/"
            child.attrSet("href", f"{page}#{fragment}" if fragment else page)


def _tables(tokens: Iterator[Token]) -> Iterator[Token]:
    """Let a wide table scroll in itself; alignment is a class."""
    numbers = count(1)
    written = list(tokens)
    for place, token in enumerate(written):
        if token.type == "table_open":
            yield _html(f'<div class="table-wrap" tabindex="0" role="group" aria-label="Table {next(numbers)}">\n')
            token.attrSet("class", "table")
        if token.type in ("th_open", "td_open"):
            style = token.attrs.pop("style", "")
            if style == "text-align:right":
                token.attrSet("class", "num")
        if token.type == "th_open":
            if written[place + 1].content:
                token.attrSet("scope", "col")
            else:  # the corner of a table heads nothing
                token.tag = written[place + 2].tag = "td"
        yield token
        if token.type == "table_close":
            yield _html("</div>\n")


def _fences(tokens: list[Token]) -> Iterator[Token]:
    """Draw code; neighbours in different languages become tabs."""
    run: list[Token] = []
    numbers = count(1)
    for token in tokens:
        if token.type in ("fence", "code_block"):
            if not (_label(token) and _label(token) not in map(_label, run)):
                yield from _drawn(run, numbers)
                run = []
            run.append(token)
            if not _label(token):
                yield from _drawn(run, numbers)
                run = []
            continue
        yield from _drawn(run, numbers)
        run = []
        yield token
    yield from _drawn(run, numbers)


def _language(token: Token) -> str:
    return (token.info.split() or [""])[0].lower()


def _label(token: Token) -> str:
    """Return what a tab of this code is called; "" for code that is no choice of languages."""
    label = _TABS.get(_language(token), "")
    return "curl" if label == "Shell" and "curl " in token.content else label


def _drawn(run: list[Token], numbers: "count[int]") -> Iterator[Token]:
    if len(run) == 1:
        yield _html(_code(run[0], next(numbers)))
    elif run:
        yield _html(_tab_set(run, numbers))


def _tab_set(run: list[Token], numbers: "count[int]") -> str:
    """Write tabs (see assets/tabs.js): without scripts all of them are shown, one below the other."""
    tabs, panels = [], []
    for token in run:
        number, label = next(numbers), _label(token)
        tabs.append(
            f'<button type="button" role="tab" id="tab-{number}" aria-controls="panel-{number}" '
            f'data-name="{label.lower()}">{label}</button>'
        )
        panels.append(
            f'<div role="tabpanel" id="panel-{number}" aria-labelledby="tab-{number}">{_code(token, number)}</div>'
        )
    head = f'<div role="tablist" aria-label="Language">{"".join(tabs)}</div>'
    return f'<div class="tabset" data-remember="language">{head}{"".join(panels)}</div>\n'


def _code(token: Token, number: int) -> str:
    name, code = f"code-{number}", coloured(token.content, _language(token))
    return (
        f'<div class="code"><pre tabindex="0" id="{name}"><code>{code}</code></pre>'
        '<button class="btn copy" data-variant="outline" data-size="xs" type="button" '
        f'data-copy="{name}" hidden><span class="word">Copy</span></button></div>\n'
    )


def coloured(code: str, language: str) -> str:
    """Return code as escaped HTML, its words in spans of the classes `hl-…`; as it is in an unknown language."""
    from pygments.lexers import get_lexer_by_name  # 3 MB that only readers of the docs need
    from pygments.util import ClassNotFound

    code = code.rstrip("\n")
    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False) if language not in ("", "text") else None
    except ClassNotFound:
        lexer = None
    if lexer is None:
        return escape(code)
    pieces: list[tuple[str, list[str]]] = []
    for kind, text in lexer.get_tokens(code):
        colour = _colour(str(kind)) if text.strip() else (pieces[-1][0] if pieces else "")
        if not pieces or pieces[-1][0] != colour:
            pieces.append((colour, []))
        pieces[-1][1].append(text)
    drawn = ((colour, escape("".join(texts), quote=False)) for colour, texts in pieces)
    return "".join(f'<span class="{colour}">{text}</span>' if colour else text for colour, text in drawn)


@lru_cache(maxsize=200)
def _colour(kind: str) -> str:
    return next((colour for name, colour in _COLOURS if kind.startswith(name)), "")
