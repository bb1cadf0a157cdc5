"""The addresses of the docs: pages, the same as Markdown, /llms.txt, /llms-full.txt, the search. Open to everybody.

Whoever is signed in finds the beginning of an own key in the snippets, nobody finds a key. Neighbours: `docs.py` (what
is shown), `docs_drawing.py` (HTML), `templates/docs/`.
"""

import re
from typing import Any, Final

from django.conf import settings
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from django.views.decorators.http import require_safe

from accounts.models import ApiKey
from respan import pages
from respan.docs import Hit, Page, index
from respan.docs_drawing import draw
from respan.docs_search import root

_FOUND_AT_ONCE: Final = 8
_FOUND: Final = 30
_MOST_CHARS: Final = 200
# What stands for the key of a reader who has none.
_ANY_KEY: Final = "YOUR_RESPAN_API_KEY"
_WORD: Final = re.compile(r"\w+")
_KEPT: Final = "max-age=300"


@require_safe
def page(request: HttpRequest, path: str = "index") -> HttpResponse:
    """Show a page; another spelling of its address leads to it."""
    found = index().page(path)
    if found is None:
        return _missing(request, path)
    if request.path != found.url:
        return redirect(found.url, permanent=False)
    drawing = draw(found)
    before, after = index().around(found)
    context = {
        "page": found,
        # Markdown without raw HTML, drawn by us; what a reader's own facts replace is escaped.
        "html": mark_safe(drawing.filled(**_reader(request))),  # noqa: S308
        "contents": drawing.contents,
        "before": before,
        "after": after,
    }
    return _render(request, "docs/page.html", context)


@require_safe
def markdown(request: HttpRequest, path: str) -> HttpResponse:
    """Answer with a page as Markdown."""
    found = index().page(path)
    if found is not None:
        return _text(index().markdown(found), "text/markdown")
    lines = [f"- [{near.title}]({near.markdown_url})" for near in index().nearest(path)]
    return _text(
        "\n".join(["# There is no such page", "", "The nearest:", "", *lines, ""]), "text/markdown", status=404
    )


@require_safe
def llms(request: HttpRequest) -> HttpResponse:
    """Answer with the list of all pages, for programs."""
    return _text(index().summary(), "text/plain")


@require_safe
def llms_full(request: HttpRequest) -> HttpResponse:
    """Answer with all pages as one text, for programs."""
    return _text(index().everything(), "text/plain")


@require_safe
def search(request: HttpRequest) -> HttpResponse:
    """Show what `?q=` finds: a few as a fragment while somebody types, more of them as a page."""
    query = request.GET.get("q", "").replace("\x00", "")[:_MOST_CHARS]
    is_fragment = pages.wants_fragment(request)
    found = index().search(query, _FOUND_AT_ONCE if is_fragment else _FOUND)
    shown = [{"hit": hit, "snippet": _marked(hit, query)} for hit in found]
    return _render(request, "docs/search.html", {"query": query, "found": shown})


def _marked(hit: Hit, query: str) -> SafeString:
    """Return the words around a hit with those of the query marked."""
    wanted = {root(word) for word in _WORD.findall(query.lower())}
    parts: list[str] = []
    end = 0
    for word in _WORD.finditer(hit.snippet):
        if root(word[0].lower()) in wanted:
            parts += [escape(hit.snippet[end : word.start()]), f"<mark>{escape(word[0])}</mark>"]
            end = word.end()
    return mark_safe("".join([*parts, escape(hit.snippet[end:])]))  # noqa: S308  (escaped piece by piece)


def _missing(request: HttpRequest, path: str) -> HttpResponse:
    return _render(request, "docs/missing.html", {"nearest": index().nearest(path)}, status=404)


def _render(request: HttpRequest, template: str, context: dict[str, Any], *, status: int = 200) -> HttpResponse:
    now: Page | None = context.get("page")
    folders = [
        {"folder": folder, "is_open": now is None or now in folder.pages} for folder in index().folders
    ]  # those of other folders are folded: 80 links are no help
    return pages.render(request, template, {"folders": folders, **context}, status=status)


def _text(text: str, kind: str, *, status: int = 200) -> HttpResponse:
    answer = HttpResponse(text, content_type=f"{kind}; charset=utf-8", status=status)
    answer["Cache-Control"] = _KEPT
    return answer


def _reader(request: HttpRequest) -> dict[str, str]:
    """Return what snippets show this reader: the installation's address, the beginning of the newest own key."""
    prefix = _prefix(request)
    return {"base_url": settings.RESPAN_BASE_URL, "api_key": f"{prefix}..." if prefix else _ANY_KEY}


def _prefix(request: HttpRequest) -> str | None:
    membership = getattr(request, "membership", None)
    if membership is None:
        return None
    works = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
    own = ApiKey.objects.filter(
        works, organization=membership.organization, created_by=request.user.pk, revoked_at=None
    )
    prefix: str | None = own.order_by("-created_at").values_list("prefix", flat=True).first()
    return prefix
