"""What every page of the operator's console shares: who may enter, a fresh sign-in before money and keys, the record.

The tables of all apps build on `Table`; nothing in the console is ever done in somebody else's name. A stale sign-in is
sent to confirm who they are and comes back; what they had sent is dropped, not kept: it may hold a provider's key.
Neighbours: each app's `admin.py`, `audit.py`, django-allauth (which confirms), `respan/console.py` (the start page).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from urllib.parse import urlencode

from allauth.account.authentication import get_authentication_records
from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold import widgets
from unfold.admin import ModelAdmin
from unfold.decorators import display

from accounts import audit
from accounts.models import Organization, User

# Django's admin classes take parameters only in the type checker's eyes.
if TYPE_CHECKING:
    AnyAdmin = admin.ModelAdmin[Any]
else:
    AnyAdmin = ModelAdmin

# What moves money or touches keys needs a sign-in, or its confirmation, not older than this.
FRESH_S: Final = 600

_View = TypeVar("_View", bound=Callable[..., Any])


# --- Who may, and how lately they proved who they are -----------------------------------------------------------------


def is_operator(request: HttpRequest) -> bool:
    """Tell whether somebody may see the console's tables; staff who are no operators may not."""
    return bool(request.user.is_active and getattr(request.user, "is_superuser", False))


def require_operator(request: HttpRequest) -> User:
    """Return the operator who asks. Raises: PermissionDenied."""
    if not is_operator(request) or not isinstance(request.user, User):
        raise PermissionDenied
    return request.user


def is_fresh(request: HttpRequest) -> bool:
    """Tell whether they signed in, or confirmed who they are, within the last ten minutes."""
    user = request.user if isinstance(request.user, User) else None
    records = get_authentication_records(request, user)
    return bool(records) and 0 <= time.time() - records[-1]["at"] < FRESH_S


def confirm_first(request: HttpRequest) -> HttpResponse:
    """Send somebody to confirm who they are, and then back to this address."""
    if request.method == "POST":
        messages.warning(request, "Your sign-in was too old for this, so nothing was changed. Do it again now.")
    query = urlencode({"next": request.get_full_path()})
    return redirect(f"{reverse('account_reauthenticate')}?{query}")


def fresh(view: _View) -> _View:
    """Open a method of a table to operators with a fresh sign-in only, whatever the HTTP method."""

    @wraps(view)
    def guarded(self: Any, request: HttpRequest, *args: Any, **options: Any) -> Any:
        require_operator(request)
        return view(self, request, *args, **options) if is_fresh(request) else confirm_first(request)

    return guarded  # type: ignore[return-value]


class OperatorOnly:
    """Permissions of operators; a staff member who is not one sees nothing."""

    def has_module_permission(self, request: HttpRequest) -> bool:
        return is_operator(request)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return is_operator(request)

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return is_operator(request)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return is_operator(request)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class Audited:
    """Write what Django's own admin log notes into the audit log as well."""

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        self._record(request, obj, "admin.added", message)
        return super().log_addition(request, obj, message)  # type: ignore[misc]

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        self._record(request, obj, "admin.changed", message)
        return super().log_change(request, obj, message)  # type: ignore[misc]

    def log_deletions(self, request: HttpRequest, queryset: QuerySet[Any]) -> Any:
        for obj in queryset:
            self._record(request, obj, "admin.deleted", [])
        return super().log_deletions(request, queryset)  # type: ignore[misc]

    def _record(self, request: HttpRequest, obj: Any, action: str, message: Any) -> None:
        organization = obj if isinstance(obj, Organization) else getattr(obj, "organization", None)
        audit.record(
            organization=organization,
            actor=require_operator(request),
            action=action,
            target=f"{obj._meta.model_name} {getattr(obj, 'public_id', None) or obj}",
            detail={"changes": message},
            address=audit.client_address(request),
        )


class Table(OperatorOnly, Audited, AnyAdmin):
    """A table of the console: operators only, never a deletion, recorded, quick with many rows."""

    # Which requests on a record need a fresh sign-in; actions on the list and deletions always do.
    fresh_for: frozenset[str] = frozenset({"POST"})
    list_per_page = 50
    show_full_result_count = False
    compressed_fields = True
    list_filter_sheet = False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        if request.method == "POST" and is_operator(request) and not is_fresh(request):
            return confirm_first(request)
        return super().changelist_view(request, extra_context)

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        if request.method in self.fresh_for and is_operator(request) and not is_fresh(request):
            return confirm_first(request)
        return super().changeform_view(request, object_id, form_url, extra_context)

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        if self.has_delete_permission(request) and not is_fresh(request):
            return confirm_first(request)
        return super().delete_view(request, object_id, extra_context)


class ReadOnlyTable(Table):
    """Operators see; what can be done at all has a page of its own."""

    # Nothing is saved by its form: a POST is refused, whoever sends it.
    fresh_for = frozenset()

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


def label(title: str, colours: Mapping[str, str]) -> Callable[[_View], _View]:
    """Make a method a column that shows one word in the colour of its meaning: success, warning, danger, info."""
    return cast(Callable[[_View], _View], display(description=title, label=dict(colours)))


# --- Pages of our own in the console ----------------------------------------------------------------------------------

_CLASSES: Final = {
    "checkbox": widgets.CHECKBOX_CLASSES,
    "select": widgets.SELECT_CLASSES,
    "textarea": widgets.TEXTAREA_CLASSES,
}


def dress(form: forms.BaseForm) -> None:
    """Give the fields of a form of ours the look of the console's own."""
    for field in form.fields.values():
        widget = field.widget
        kind = "textarea" if isinstance(widget, forms.Textarea) else getattr(widget, "input_type", "text")
        if not widget.is_hidden:
            widget.attrs["class"] = " ".join(_CLASSES.get(kind, widgets.INPUT_CLASSES))


def form_page(
    table: AnyAdmin,
    request: HttpRequest,
    form: forms.Form,
    *,
    title: str,
    button: str = "",
    lead: Sequence[str] = (),
    back: str,
    danger: bool = False,
    about: Any = None,
) -> TemplateResponse:
    """Answer with a form on a page of the console: what it is about, its fields, one button, a way back."""
    dress(form)
    context = {
        **table.admin_site.each_context(request),
        "opts": None,
        "title": title,
        "button": button or title,
        "lead": lead,
        "form": form,
        "back": back,
        "danger": danger,
        "about": about,
    }
    return TemplateResponse(
        request,
        "admin/console_form.html",
        context,
        status=400 if form.errors else 200,
        headers={"Cache-Control": "private, no-store"},
    )
