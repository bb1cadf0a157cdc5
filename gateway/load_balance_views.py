"""The Load balance page: how one of several keys is chosen, and the groups of models that share calls.

Every member reads it, owners and admins change it; every query starts at the reader's organization, so a foreign id is
a 404. Without scripts a line is added to a group by a button that sends the form. Neighbours: `settings_changes.py`
(keeps), `call_settings_forms.py`, `call_settings_views.py` (the other pages under Routing), `snippets.py`.
"""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.forms import BaseFormSet
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.models import Role
from accounts.tenancy import MemberRequest, has_role, require_role
from gateway import settings_changes, snippets
from gateway.call_settings_forms import (
    STRATEGIES,
    GroupDeletionForm,
    GroupForm,
    MemberForm,
    MemberForms,
    NewGroupForm,
    StrategyForm,
    keys_offered,
    lines_of,
    lines_typed,
    with_one_more,
    without,
)
from gateway.call_settings_views import MOST_OFFERED, by, facts, put, require_admin
from gateway.models import LoadBalanceGroup
from gateway.settings_changes import Member
from gateway.standing import Facts, Standing
from respan import pages
from respan.errors import Error

_MEMBERS = "members"


@dataclass(frozen=True, slots=True)
class Share:
    """A member of a group as the page shows it; `percent` of the calls when chosen by weight."""

    standing: Standing
    weight: int
    percent: str
    # The names of the keys it is restricted to.
    keys: tuple[str, ...]
    # Whether a key it is restricted to is there no more.
    has_lost_keys: bool


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.MEMBER)
def load_balance(request: MemberRequest) -> HttpResponse:
    """List the groups; a POST makes one."""
    if request.method != "POST":
        return _list(request)
    require_admin(request)
    if asked := _other_lines(request):
        return _edit_page(request, NewGroupForm(initial=request.POST.dict()), asked)
    form, known = NewGroupForm(request.POST), facts(request.membership.organization)
    lines = _lines(request, known)
    members = _valid(form, lines)
    if members is None:
        return _edit_page(request, form, lines, known=known, status=HTTPStatus.BAD_REQUEST)
    try:
        group = settings_changes.store_group(
            organization=request.membership.organization,
            **form.cleaned_data,
            members=members,
            facts=known,
            by=by(request),
        )
    except Error as error:
        _put(form, lines, error)
        return _edit_page(request, form, lines, known=known, status=HTTPStatus.BAD_REQUEST)
    messages.success(request, f"“{group.name}” is there. Calls can name it within 5 seconds.")
    return _go_on(request, f"{reverse('load-balance')}?new={group.group_id}#group-{group.group_id}")


@require_POST
@require_role(Role.ADMIN)
def strategy(request: MemberRequest) -> HttpResponse:
    """Say how one of several keys or providers is chosen."""
    form = StrategyForm(request.POST)
    if not form.is_valid():
        return _list(request, strategy_form=form, status=HTTPStatus.BAD_REQUEST)
    settings_changes.choose_strategy(
        organization=request.membership.organization, strategy=form.cleaned_data["strategy"], by=by(request)
    )
    messages.success(request, "The strategy is saved. Running servers follow within 5 seconds.")
    return redirect("load-balance")


@require_safe
@require_role(Role.ADMIN)
def new_group(request: MemberRequest) -> HttpResponse:
    """Show the form that makes a group."""
    return _edit_page(request, NewGroupForm(initial={"strategy": "weighted"}), lines_of(None))


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.ADMIN)
def group(request: MemberRequest, group_id: str) -> HttpResponse:
    """Change a group's name, strategy and members."""
    found = _get(request, group_id)
    if request.method != "POST":
        shown = GroupForm(initial={"name": found.name, "strategy": found.strategy})
        return _edit_page(request, shown, lines_of(found), group=found)
    if asked := _other_lines(request):
        return _edit_page(request, GroupForm(initial=request.POST.dict()), asked, group=found)
    form, known = GroupForm(request.POST), facts(request.membership.organization)
    lines = _lines(request, known)
    members = _valid(form, lines)
    if members is None:
        return _edit_page(request, form, lines, group=found, known=known, status=HTTPStatus.BAD_REQUEST)
    try:
        changed = settings_changes.change_group(
            group=found, **form.cleaned_data, members=members, facts=known, by=by(request)
        )
    except Error as error:
        _put(form, lines, error)
        return _edit_page(request, form, lines, group=found, known=known, status=error.status)
    messages.success(request, f"“{changed.name}” is changed. Running servers follow within 5 seconds.")
    return _go_on(request, f"{reverse('load-balance')}#group-{changed.group_id}")


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.ADMIN)
def delete_group(request: MemberRequest, group_id: str) -> HttpResponse:
    """Ask for the id, then delete a group."""
    found = _get(request, group_id)
    form = GroupDeletionForm(request.POST if request.method == "POST" else None, group=found)
    if not form.is_valid():
        status = HTTPStatus.BAD_REQUEST if form.is_bound else HTTPStatus.OK
        context = {"tab": "load-balance", "group": found, "form": form}
        return pages.render(request, "gateway/load_balance_delete.html", context, status=status)
    settings_changes.remove_group(group=found, by=by(request))
    messages.success(request, f"“{found.name}” is deleted.")
    return _go_on(request, reverse("load-balance"))


# --- From a form to members and back ----------------------------------------------------------------------------------


def _lines(request: MemberRequest, known: Facts) -> "BaseFormSet[MemberForm]":
    return MemberForms(request.POST, prefix=_MEMBERS, form_kwargs={"keys": _keys(known)})


def _other_lines(request: MemberRequest) -> list[dict[str, Any]] | None:
    """Return the lines with one more, or without one, when a button asked for that and not to save."""
    if "more" in request.POST:
        return with_one_more(lines_typed(request.POST))
    if "less" in request.POST:
        return without(lines_typed(request.POST), request.POST["less"])
    return None


def _valid(form: GroupForm, lines: "BaseFormSet[MemberForm]") -> list[Member] | None:
    """Return the members when all of the form is right."""
    # Both, so that everything wrong is said at once.
    if not (form.is_valid() & lines.is_valid()):
        return None
    members = [member for line in lines if (member := line.member())]
    if not members:
        form.add_error(None, "Name at least one model.")
        return None
    return members


def _put(form: GroupForm, lines: "BaseFormSet[MemberForm]", error: Error) -> None:
    """Show a refusal beside the field, or the line, it is about."""
    where, _, place = (error.param or "").partition(".")
    if where != _MEMBERS or not place:
        put(form, error)
        return
    filled = [line for line in lines if line.member()]
    filled[int(place)].add_error("model", error.message)


def _keys(known: Facts) -> list[tuple[str, str]]:
    return keys_offered(known.own, {provider.id: provider.name for provider in known.catalog.providers.values()})


# --- What is shown ----------------------------------------------------------------------------------------------------


def _get(request: MemberRequest, group_id: str) -> LoadBalanceGroup:
    return get_object_or_404(
        LoadBalanceGroup.objects.select_related("organization"),
        organization=request.membership.organization,
        group_id=group_id,
    )


def _go_on(request: MemberRequest, address: str) -> HttpResponse:
    """Lead the reader to another page; when htmx sent the form, the whole page goes there."""
    if not pages.wants_fragment(request):
        return redirect(address)
    answer = HttpResponse(status=HTTPStatus.NO_CONTENT)
    answer["HX-Redirect"] = address
    return answer


def _list(
    request: MemberRequest, *, strategy_form: StrategyForm | None = None, status: int = HTTPStatus.OK
) -> HttpResponse:
    organization = request.membership.organization
    kept, known = settings_changes.read(organization), facts(organization)
    groups = LoadBalanceGroup.objects.filter(organization=organization)
    context = {
        "tab": "load-balance",
        "strategy_form": strategy_form or StrategyForm(initial={"strategy": kept.strategy}),
        "strategies": {value: (label, words) for value, label, words in STRATEGIES},
        "settings": kept,
        "strategy_words": _strategy(kept.strategy),
        "groups": [_shown(each, known) for each in groups],
        "new": request.GET.get("new", ""),
        "may_change": has_role(request.membership, Role.ADMIN),
        "several": _several(known),
    }
    return pages.render(request, "gateway/load_balance.html", context, status=status)


def _shown(group: LoadBalanceGroup, known: Facts) -> dict[str, Any]:
    members = settings_changes.members_of(group)
    whole = sum(member.weight for member in members) or 1
    return {
        "group": group,
        "strategy": _strategy(group.strategy),
        "is_weighted": group.strategy == LoadBalanceGroup._meta.get_field("strategy").default,
        "shares": [_share(member, whole, known) for member in members],
        "snippets": snippets.of_group(
            base_url=f"{settings.RESPAN_BASE_URL}/api/", model=members[0].model, group_id=group.group_id
        )
        if members
        else [],
    }


def _share(member: Member, whole: int, known: Facts) -> Share:
    own = {key.public_id: key.name for key in known.own}
    return Share(
        standing=known.of(member.model),
        weight=member.weight,
        percent=f"{member.weight * 100 / whole:.3g} %",
        keys=tuple(own[each] for each in member.credentials if each in own),
        has_lost_keys=any(each not in own for each in member.credentials),
    )


def _strategy(value: str) -> tuple[str, str]:
    return next(((label, words) for each, label, words in STRATEGIES if each == value), (value, ""))


def _several(known: Facts) -> list[tuple[str, list[tuple[str, int]]]]:
    """Return the providers with more than one key, and the weights of those: between them the strategy chooses."""
    found: dict[str, list[tuple[str, int]]] = {}
    for key in known.own:
        if key.provider in known.catalog.providers:
            found.setdefault(known.catalog.providers[key.provider].name, []).append((key.name, key.weight))
    return [(name, keys) for name, keys in found.items() if len(keys) > 1]


def _edit_page(
    request: MemberRequest,
    form: GroupForm,
    lines: "BaseFormSet[MemberForm] | list[dict[str, Any]]",
    *,
    group: LoadBalanceGroup | None = None,
    known: Facts | None = None,
    status: int = HTTPStatus.OK,
) -> HttpResponse:
    known = known or facts(request.membership.organization)
    if isinstance(lines, list):
        lines = MemberForms(initial=lines, prefix=_MEMBERS, form_kwargs={"keys": _keys(known)})
    context = {
        "tab": "load-balance",
        "form": form,
        "lines": lines,
        "group": group,
        "is_full": lines.total_form_count() >= settings_changes.MOST_MEMBERS,
        "offered": known.offered(MOST_OFFERED),
        "focus": "more" in request.POST,
    }
    return pages.render(request, "gateway/load_balance_group.html", context, status=status)
