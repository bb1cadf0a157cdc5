"""The docs of this installation: the pages under docs/, read once, in the order of docs/navigation.toml, searchable.

Pure but for reading files; `index()` is what the rest of Respan asks (pages, llms.txt, Cmd-K, the docs' MCP server).
Building the words to search in waits for the first search. Neighbours: `docs_pages.py` (one page), `docs_search.py`,
`docs_drawing.py` (HTML), `docs_views.py` (addresses).
"""

import difflib
import tomllib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

from django.conf import settings

from respan.docs_pages import Malformed, Page, canonical, read
from respan.docs_search import Hit, Search

__all__ = ["Folder", "Hit", "Index", "Page", "index"]

# What stands for an API key where nobody is signed in: a variable of the shell.
KEY_VARIABLE: Final = "$RESPAN_API_KEY"
_NAVIGATION: Final = "navigation.toml"


@dataclass(frozen=True, slots=True)
class Folder:
    """A group of the navigation; `name` is the folder below docs/, "" for the pages of the root."""

    name: str
    title: str
    pages: tuple[Page, ...]


class Index:
    """Every page of a folder, in the order people read them.

    Raises: Malformed for a page or a navigation that cannot be read, naming the file.
    """

    def __init__(self, folder: Path, *, base_url: str) -> None:
        self.base_url = base_url
        found = [
            read(file.relative_to(folder).with_suffix("").as_posix(), file.read_text(encoding="utf-8"))
            for file in sorted(folder.rglob("*.md"))
        ]
        navigation = tomllib.loads((folder / _NAVIGATION).read_text(encoding="utf-8"))
        self.folders = _folders(navigation.get("folder", []), found)
        self._alike: dict[str, str] = navigation.get("alike", {})
        self._called: dict[str, str] = navigation.get("called", {})
        self.pages = tuple(page for each in self.folders for page in each.pages)
        self._by_path = {page.path: page for page in self.pages}

    def page(self, path: str) -> Page | None:
        """Return a page by its path, in any spelling: `gateway/streaming`, `/docs/gateway/streaming/#why`, `….md`."""
        path = canonical(path)
        return self._by_path.get(path) or self._by_path.get(f"{path}/index")

    def markdown(self, page: Page) -> str:
        """Return a page as Markdown for readers nobody knows: this installation's address, a variable for the key."""
        return page.markdown(base_url=self.base_url, api_key=KEY_VARIABLE)

    def search(self, query: str, limit: int = 10) -> list[Hit]:
        """Return the pages for a query, best first, each by its best section."""
        return self._words.find(query, limit)

    @cached_property
    def _words(self) -> Search:
        filled = (Page(page.path, page.title, page.description, page.order, self.markdown(page)) for page in self.pages)
        return Search(filled, self._alike, self._called)

    def nearest(self, path: str, limit: int = 5) -> list[Page]:
        """Return the pages whose path is spelled like one that does not exist, then those that have its words.

        The first page where nothing is near.
        """
        wanted = canonical(path)[:200].lower()
        last = wanted.rpartition("/")[2]
        spelled = difflib.get_close_matches(wanted, self._by_path, n=limit, cutoff=0.6)
        lasts = {page.path.rpartition("/")[2]: page.path for page in self.pages}
        spelled += [lasts[name] for name in difflib.get_close_matches(last, lasts, n=2, cutoff=0.6)]
        spelled += [hit.path for hit in self.search(wanted.replace("/", " ").replace("-", " "), limit)]
        return [self._by_path[each] for each in dict.fromkeys(spelled or ["index"])][:limit]

    def around(self, page: Page) -> tuple[Page | None, Page | None]:
        """Return the pages before and after one, in the order of reading."""
        number = self.pages.index(page)
        before = self.pages[number - 1] if number else None
        return before, self.pages[number + 1] if number + 1 < len(self.pages) else None

    def summary(self) -> str:
        """Return `/llms.txt`: every page with its address and what it is about (https://llmstxt.org)."""
        lines = ["# Respan", "", f"> {self._by_path['index'].description}"]
        for folder in self.folders:
            lines += ["", f"## {folder.title}", ""]
            for page in folder.pages:
                about = f": {page.description}" if page.description else ""
                lines.append(f"- [{page.title}]({self.base_url}{page.markdown_url}){about}")
        return "\n".join(lines) + "\n"

    def everything(self) -> str:
        """Return `/llms-full.txt`: every page, one below the other, each with its address."""
        parts = [f"Source: {self.base_url}{page.url}\n\n{self.markdown(page)}" for page in self.pages]
        return "\n---\n\n".join(parts)


def _folders(named: list[dict[str, Any]], pages: list[Page]) -> tuple[Folder, ...]:
    """Group the pages as the navigation says: `[[folder]]` with `name`, `title` and `also`, in the order of reading."""
    moved = {path: each["name"] for each in named for path in each.get("also", ())}
    groups: dict[str, list[Page]] = {}
    for page in sorted(pages, key=lambda page: (page.path in moved, page.order, page.title.casefold(), page.path)):
        groups.setdefault(moved.get(page.path, page.folder), []).append(page)
    unknown = groups.keys() - {each["name"] for each in named}
    if unknown:
        raise Malformed(f"docs/{_NAVIGATION}: no folder {', '.join(sorted(unknown))}.")
    return tuple(
        Folder(each["name"], each["title"], tuple(groups[each["name"]])) for each in named if each["name"] in groups
    )


def index() -> Index:
    """Return the docs of this installation; read at the first call.

    Raises: Malformed for a page that cannot be read.
    """
    return _index(settings.BASE_DIR / "docs", settings.RESPAN_BASE_URL)


@lru_cache(maxsize=4)
def _index(folder: Path, base_url: str) -> Index:
    return Index(folder, base_url=base_url)
