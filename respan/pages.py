"""A page, or only its fragment when htmx asks for it; and what the frame around every page needs.

Holds no logic of any app: the rail is a list of names of URLs, written down here in the order people see them.
Neighbours: `templates/base.html`, `templates/_rail.html`, every app's `views.py`.
"""

from dataclasses import dataclass
from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render as _render
from django.urls import reverse

THEMES: Final = ("light", "dark")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the rail: the name of its URL, what it says, its icon, the key after `g`; whom it is for.

    `roles`: in the organization; none means everybody. `inside`: further pages of the line, by the name of their URL
    and what the search calls them; the line is current on them too.
    """

    name: str
    label: str
    icon: str
    key: str = ""
    staff: bool = False
    roles: tuple[str, ...] = ()
    inside: tuple[tuple[str, str], ...] = ()


# A page's entry comes with the page, never before it.
RAIL: Final = (
    (
        Entry("home", "Home", "house", "h"),
        Entry("logs", "Logs", "scroll-text", "l"),
        Entry("dashboard", "Dashboard", "chart-column", "d"),
    ),
    (
        Entry("api-keys", "API keys", "key-round", "a"),
        Entry("integrations", "Integrations", "plug", "i"),
        Entry("models", "Models", "boxes", "m"),
        Entry(
            "fallback",
            "Routing",
            "shuffle",
            "r",
            inside=(("fallback", "Fallback"), ("retries", "Retries"), ("load-balance", "Load balance")),
        ),
        Entry("caches", "Caches", "archive", "e"),
        Entry("limits", "Limits", "gauge", "t"),
        Entry("credits", "Credits", "wallet", "c"),
    ),
    (
        Entry("members", "Members", "users", "u"),
        Entry("audit-log", "Audit log", "history", roles=("owner", "admin")),
        Entry("settings", "Settings", "settings", "s"),
        Entry("docs", "Docs", "book-open", "o"),
        Entry("admin:index", "Admin console", "wrench", staff=True),
    ),
)


def wants_fragment(request: HttpRequest) -> bool:
    """Tell whether htmx asks for a piece of the page."""
    return request.headers.get("HX-Request") == "true" and request.headers.get("HX-Boosted") != "true"


def render(request: HttpRequest, template: str, context: dict[str, Any], *, status: int = 200) -> HttpResponse:
    """Answer with `folder/name.html`, or with `folder/_name.html` when htmx asks and there is one."""
    folder, _, name = template.rpartition("/")
    wanted = [f"{folder}/_{name}".removeprefix("/"), template] if wants_fragment(request) else template
    response = _render(request, wanted, context, status=status)
    response["Vary"] = "HX-Request, Cookie"
    response["Cache-Control"] = "private, no-store"
    return response


def frame(request: HttpRequest) -> dict[str, Any]:
    """Context of `base.html`: the organization whose page this is, the environment looked at, the rail, the theme."""
    membership = getattr(request, "membership", None)
    theme = request.COOKIES.get("theme", "")
    return {
        "membership": membership,
        "organization": membership.organization if membership else None,
        "environment": getattr(request, "environment", ""),
        "rail": _rail(request),
        "theme": theme if theme in THEMES else "",
    }


def _rail(request: HttpRequest) -> list[list[dict[str, Any]]]:
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return []
    role = getattr(getattr(request, "membership", None), "role", None)
    groups = []
    for group in RAIL:
        lines = []
        for entry in group:
            if (entry.staff and not user.is_staff) or (entry.roles and role not in entry.roles):
                continue
            href = reverse(entry.name)
            inside = [(reverse(name), label) for name, label in entry.inside]
            # Home is the beginning of every address: it is current only as itself.
            is_current = (
                request.path == href
                if entry.name == "home"
                else request.path.startswith((href, *(each for each, _ in inside)))
            )
            lines.append(
                {
                    "href": href,
                    "label": entry.label,
                    "icon": entry.icon,
                    "key": entry.key,
                    "is_current": is_current,
                    "inside": inside,
                }
            )
        groups.append(lines)
    return groups
