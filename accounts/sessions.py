"""The browsers somebody is signed in with: which there are, when each was last seen, and ending them.

A session is Django's; django-allauth's `UserSession` keeps its address and browser beside it. Ending one deletes the
session itself, so that its next request, at any web process, finds nobody. Never decides who may sign in. Neighbours:
`signin.py` (ends the others when a password changes), `account_views.py`.
"""

import re
from dataclasses import dataclass
from datetime import datetime

from allauth.usersessions.models import UserSession
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.models import Session
from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone

from accounts import audit
from accounts.before import BeforeView
from accounts.models import User

# Where the address of a browser is not known (a socket without one); the column takes no empty value.
UNKNOWN_ADDRESS = "0.0.0.0"  # noqa: S104
SEEN_KEY = "seen_at"
SEEN_EVERY_S = 300
_MOST_SHOWN = 100

_BROWSERS = (
    (r"Edg(?:A|iOS)?/", "Edge"),
    (r"OPR/", "Opera"),
    (r"SamsungBrowser/", "Samsung Internet"),
    (r"(?:Firefox|FxiOS)/", "Firefox"),
    (r"(?:HeadlessChrome|Chrome|CriOS|Chromium)/", "Chrome"),
    (r"Safari/", "Safari"),
    (r"curl/", "curl"),
)
_SYSTEMS = (
    (r"iPhone", "iPhone"),
    (r"iPad", "iPad"),
    (r"Android", "Android"),
    (r"CrOS", "ChromeOS"),
    (r"Windows", "Windows"),
    (r"Mac OS X|Macintosh", "macOS"),
    (r"Linux|X11", "Linux"),
)


@dataclass(frozen=True, slots=True)
class Place:
    """One browser somebody is signed in with."""

    id: int
    browser: str
    address: str
    began_at: datetime
    seen_at: datetime
    is_current: bool
    is_phone: bool


def places(user: User, *, current: str | None, now: datetime) -> list[Place]:
    """Return where a user is signed in, the current browser first, then the one seen last."""
    living = Session.objects.filter(expire_date__gt=now).values("session_key")
    found = UserSession.objects.filter(user=user, session_key__in=living).order_by("-last_seen_at", "-id")[:_MOST_SHOWN]
    return sorted((_place(each, current) for each in found), key=lambda place: not place.is_current)


def _place(session: UserSession, current: str | None) -> Place:
    return Place(
        id=session.pk,
        browser=browser_of(session.user_agent),
        address="" if session.ip == UNKNOWN_ADDRESS else str(session.ip),
        began_at=session.created_at,
        seen_at=session.last_seen_at,
        is_current=session.session_key == current,
        is_phone=bool(re.search("iPhone|Android|Mobile", session.user_agent)),
    )


def browser_of(user_agent: str) -> str:
    """Say in words which browser on which system a User-Agent names, for example `Firefox on Linux`."""
    browser = next((name for pattern, name in _BROWSERS if re.search(pattern, user_agent)), "")
    system = next((name for pattern, name in _SYSTEMS if re.search(pattern, user_agent)), "")
    return " on ".join(filter(None, [browser or "Unknown browser", system]))


def begin(request: HttpRequest, user: User, *, now: datetime) -> None:
    """Note a browser that has just signed in, or one whose sign-in nobody noted."""
    if not request.session.session_key:
        request.session.save()
    request.session[SEEN_KEY] = int(now.timestamp())
    UserSession.objects.update_or_create(
        session_key=request.session.session_key,
        defaults={
            "user": user,
            "ip": audit.client_address(request) or UNKNOWN_ADDRESS,
            "user_agent": request.META.get("HTTP_USER_AGENT", "").replace("\x00", "")[:200],
            "last_seen_at": now,
        },
    )


def seen(request: HttpRequest, *, now: datetime) -> None:
    """Note that a browser is in use, at most once in `SEEN_EVERY_S`."""
    if SESSION_KEY not in request.session:
        return
    if now.timestamp() - request.session.get(SEEN_KEY, 0) < SEEN_EVERY_S:
        return
    if request.user.is_authenticated:
        begin(request, request.user, now=now)


def end(user: User, id: int) -> bool:
    """Sign one browser of a user out; tell whether there was such a one."""
    keys = list(UserSession.objects.filter(user=user, pk=id).values_list("session_key", flat=True))
    return _end(keys) > 0


def end_others(user: User, *, keep: str | None) -> int:
    """Sign a user out everywhere but in the session `keep`; return in how many browsers."""
    keys = list(UserSession.objects.filter(user=user).exclude(session_key=keep).values_list("session_key", flat=True))
    return _end(keys)


def _end(keys: list[str]) -> int:
    with transaction.atomic():
        Session.objects.filter(session_key__in=keys).delete()
        count: int = UserSession.objects.filter(session_key__in=keys).delete()[0]
    return count


def forget_ended(*, now: datetime) -> int:
    """Drop sessions that are over, and what was noted of sessions that are gone; return how many notes went."""
    Session.objects.filter(expire_date__lt=now).delete()
    gone: int = UserSession.objects.exclude(session_key__in=Session.objects.values("session_key")).delete()[0]
    return gone


class SeenMiddleware(BeforeView):
    """Keep `last seen` of the browsers that people are signed in with; costs a request no query but once in a while."""

    def with_session(self, request: HttpRequest) -> None:
        seen(request, now=timezone.now())
