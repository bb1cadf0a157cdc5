"""The documentation as data for its tests: pages, fences, headings, links. Reads files and nothing of the product's.

A fence is a block of code with a language, and perhaps a mark after it: `no-run` says that no test runs it, and its
first line says why; `refused`, that the next fence is the error it is answered with; `installs`, that its first line
names packages, which a long test installs. Neighbours: `test_snippets.py` (runs the fences), `test_truth.py` (compares
the rest with the code).
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^`\n]*)\n(?P<text>.*?)^(?P=indent)```[ ]*$", re.M | re.S)
_HEADING = re.compile(r"^(?P<level>#{1,6}) +(?P<title>.+?) *#*$", re.M)
_LINK = re.compile(r"(?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^()\s]+)(?: +\"[^\"]*\")?\)")
_FRONT = re.compile(r"\A---\n(?P<text>.*?)^---\n", re.M | re.S)
_FIELD = re.compile(r"^(?P<name>[a-z_]+): *(?P<value>.*)$", re.M)
_REASON = re.compile(r"\s*(?:#|//|--|<!--)\s*\S")


@dataclass(frozen=True)
class Fence:
    """A block of code: where it stands, in which language, and whether a test may run it."""

    page: str
    line: int
    language: str
    text: str
    marks: frozenset[str] = frozenset()

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_run(self) -> bool:
        return "no-run" not in self.marks

    @property
    def reason(self) -> str:
        """Return the first line where it is a comment: why a fence is not run."""
        first = self.text.partition("\n")[0]
        return first.strip() if _REASON.match(first) else ""


@dataclass(frozen=True)
class Page:
    """A page by its path below `docs/`, for example `gateway/streaming.md`."""

    path: str
    source: str

    @cached_property
    def front(self) -> dict[str, str]:
        match = _FRONT.match(self.source)
        fields = _FIELD.finditer(match["text"]) if match else ()
        return {field["name"]: field["value"].strip().strip("\"'") for field in fields}

    @cached_property
    def fences(self) -> list[Fence]:
        found = []
        for match in _FENCE.finditer(self.source):
            language, *marks = match["info"].split() or [""]
            indent = len(match["indent"])
            text = "\n".join(line[indent:] for line in match["text"].splitlines()) + "\n"
            line = self.source.count("\n", 0, match.start()) + 1
            found.append(Fence(self.path, line, language, text, frozenset(marks)))
        return found

    @cached_property
    def prose(self) -> str:
        """Return the page without its front matter and its fences."""
        return _FENCE.sub("", _FRONT.sub("", self.source))

    @cached_property
    def headings(self) -> list[tuple[int, str]]:
        return [(len(match["level"]), match["title"]) for match in _HEADING.finditer(self.prose)]

    @cached_property
    def anchors(self) -> set[str]:
        found: set[str] = set()
        for _, title in self.headings:
            slug, number = slugged(title), 1
            while (unique := slug if number == 1 else f"{slug}-{number - 1}") in found:
                number += 1
            found.add(unique)
        return found

    @cached_property
    def checked_with(self) -> dict[str, str]:
        """Return package -> version of the line `Checked with …` that ends the page of an integration."""
        line = re.search(r"^Checked with (?P<packages>.+)\.$", self.prose, re.M)
        return dict(re.findall(r"(?P<name>\S+) (?P<version>\d[\d.]*)", line["packages"])) if line else {}

    @cached_property
    def links(self) -> list[str]:
        return [match["target"] for match in _LINK.finditer(re.sub(r"`[^`\n]*`", "``", self.prose))]

    def table(self, heading: str) -> list[list[str]]:
        """Return the rows of the first table below a heading, without its head."""
        below = re.split(rf"^#+ +{re.escape(heading)} *$", self.prose, maxsplit=1, flags=re.M)[1]
        rows: list[list[str]] = []
        for line in below.splitlines():
            if line.startswith("|"):
                rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
            elif rows or line.startswith("#"):
                break
        return rows[2:]


def slugged(title: str) -> str:
    """Return a heading's anchor, as GitHub makes it."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


def pages() -> dict[str, Page]:
    """Return every page by its path."""
    found = sorted(path for path in DOCS.rglob("*.md"))
    return {str(path.relative_to(DOCS)): Page(str(path.relative_to(DOCS)), path.read_text()) for path in found}


def words(cell: str) -> list[str]:
    """Return what stands in backticks in a text."""
    return re.findall(r"`([^`]+)`", cell)
