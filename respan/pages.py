"""A page, or only its fragment when htmx asks for it; and what the frame around every page needs.

Holds no logic of any app. Neighbours: `templates/base.html`, every app's `views.py`.
"""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render as _render


def render(request: HttpRequest, template: str, context: dict[str, Any], *, status: int = 200) -> HttpResponse:
    """Answer with `folder/name.html`, or with `folder/_name.html` when htmx asks."""
    if request.headers.get("HX-Request") == "true" and request.headers.get("HX-Boosted") != "true":
        folder, _, name = template.rpartition("/")
        template = f"{folder}/_{name}"
    response = _render(request, template, context, status=status)
    response["Vary"] = "HX-Request, Cookie"
    response["Cache-Control"] = "private, no-store"
    return response


def frame(request: HttpRequest) -> dict[str, Any]:
    """Context of `base.html`: the organization whose page this is and the member's role."""
    membership = getattr(request, "membership", None)
    return {"membership": membership, "organization": membership.organization if membership else None}
