"""The operator's console for money: wallets and entries, granting, adjusting, refunding, approvals, codes, rates.

Wallets, entries, holds and rates are read-only; nothing can be deleted. What moves money goes through `approvals.py`
(above $100 a second operator approves it) and `codes.py`, with a reason, a fresh sign-in and into the audit log.
Neighbours: `accounts.console` (what all tables share), `ledger.py`.
"""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import Count, QuerySet
from django.forms import Form
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from unfold.paginator import InfinitePaginator

from accounts import audit, console
from billing import approvals, codes, ledger, prices
from billing.forms import AdjustForm, GrantForm, RedeemCodeForm, RefundForm
from billing.models import Entry, Grant, Hold, ModelRates, PendingAdjustment, RedeemCode, Wallet
from billing.usage import usd
from respan.errors import Error

_REFUNDABLE = {Entry.Kind.USAGE, Entry.Kind.PURCHASE}
_WAITS = "{} for {} waits for a second operator's approval."


def _amount(field: str, title: str) -> Callable[[Any, Any], str]:
    """Return a column that shows an amount as exact US dollars."""

    @admin.display(description=title, ordering=field)
    def column(self: Any, record: Any) -> str:
        value = getattr(record, field)
        return "" if value is None else usd(value)

    return column


@admin.register(Wallet)
class WalletAdmin(console.ReadOnlyTable):
    """Balances; its two actions grant and adjust."""

    list_display = ("organization", "posted_usd", "held_usd", "available_usd")
    list_select_related = ("organization",)
    search_fields = ("organization__name", "organization__public_id")
    ordering = ("organization__name", "organization_id")
    fields = ("organization", "posted_usd", "held_usd", "available_usd", "next_expiry_at", "created_at")
    change_form_outer_before_template = "admin/console_actions.html"

    posted_usd = _amount("posted", "booked")
    held_usd = _amount("held", "held")

    @admin.display(description="available")
    def available_usd(self, wallet: Wallet) -> str:
        return usd(wallet.available)

    def get_urls(self) -> list[URLPattern]:
        return [
            path("<int:pk>/grant/", self.admin_site.admin_view(self.grant), name="billing_wallet_grant"),
            path("<int:pk>/adjust/", self.admin_site.admin_view(self.adjust), name="billing_wallet_adjust"),
            *super().get_urls(),
        ]

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        links = []
        if object_id.isdecimal():
            entries = f"{reverse('admin:billing_entry_changelist')}?wallet__exact={object_id}"
            links = [
                ("Grant credits", reverse("admin:billing_wallet_grant", args=[object_id]), ""),
                ("Adjust", reverse("admin:billing_wallet_adjust", args=[object_id]), "default"),
                ("Entries", entries, "default"),
            ]
        return super().change_view(request, object_id, form_url, {"console_actions": links, **(extra_context or {})})

    @console.fresh
    def grant(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Give an organization credits; many wait for a second operator."""

        def book(form: Form, wallet: Wallet) -> str:
            data = form.cleaned_data
            booked = approvals.grant(
                organization=wallet.organization,
                amount_nano=data["amount"],
                reason=data["reason"],
                expires_at=data["expires_at"],
                id=data["request_id"],
                actor=console.require_operator(request),
                address=audit.client_address(request),
            )
            if isinstance(booked, PendingAdjustment):
                return _WAITS.format(usd(booked.amount), wallet.organization)
            return f"{usd(booked.amount)} granted to {wallet.organization}."

        return self._by_hand(request, pk, GrantForm, "Grant credits", book)

    @console.fresh
    def adjust(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Correct a balance; a large correction waits for a second operator."""

        def book(form: Form, wallet: Wallet) -> str:
            data = form.cleaned_data
            booked = approvals.adjust(
                organization=wallet.organization,
                amount_nano=data["amount"],
                reason=data["reason"],
                id=data["request_id"],
                actor=console.require_operator(request),
                address=audit.client_address(request),
            )
            if isinstance(booked, PendingAdjustment):
                return _WAITS.format(usd(booked.amount), wallet.organization)
            return f"{usd(booked.change)} adjusted for {wallet.organization}."

        return self._by_hand(request, pk, AdjustForm, "Adjust", book)

    def _by_hand(
        self, request: HttpRequest, pk: int, form_class: type[Form], title: str, book: Callable[[Form, Wallet], str]
    ) -> HttpResponse:
        """Show a form, book what it asks for, say what was done."""
        wallet = get_object_or_404(Wallet.objects.select_related("organization"), pk=pk)
        return _booking_page(
            self,
            request,
            form_class(request.POST or None),
            lambda form: book(form, wallet),
            title=title,
            about=_about(wallet),
            back=reverse("admin:billing_wallet_change", args=[pk]),
        )


def _about(wallet: Wallet) -> list[tuple[str, str]]:
    return [
        ("Organization", f"{wallet.organization.name} ({wallet.organization.public_id})"),
        ("Available", usd(wallet.available)),
        ("Booked", usd(wallet.posted)),
        ("Held", usd(wallet.held)),
    ]


def _booking_page(
    table: console.Table,
    request: HttpRequest,
    form: Form,
    book: Callable[[Form], str],
    *,
    title: str,
    about: list[tuple[str, Any]] | list[tuple[str, str]],
    back: str,
) -> HttpResponse:
    """Show a form; when it is sent and right, book it and go back with what was done."""
    if request.method == "POST" and form.is_valid():
        try:
            said = book(form)
        except Error as error:
            form.add_error(None, error.message)
        else:
            table.message_user(request, said, messages.SUCCESS)
            return redirect(back)
    return console.form_page(table, request, form, title=title, about=about, back=back)


@admin.register(Entry)
class EntryAdmin(console.ReadOnlyTable):
    """Every movement of money; a charge or a purchase can be refunded, which is another entry."""

    paginator = InfinitePaginator
    list_display = ("created_at", "wallet", "kind", "change_usd", "balance_usd", "reason", "actor")
    list_filter = ("kind",)
    list_select_related = ("wallet__organization", "actor")
    search_fields = ("=id", "=hold_id", "wallet__organization__public_id")
    search_help_text = "An entry's or a call's UUID, or an organization's id"
    ordering = ("-number",)
    fields = (
        "id", "created_at", "wallet", "kind", "amount_usd", "change_usd", "balance_usd", "debit", "credit", "reason",
        "hold_id", "rates", "grant", "corrects", "actor", "approver",
    )  # fmt: skip
    change_form_outer_before_template = "admin/console_actions.html"

    amount_usd = _amount("amount", "amount")
    change_usd = _amount("change", "change of the wallet")
    balance_usd = _amount("balance", "balance after it")
    # Neither is a column one could sort by without reading the whole table.
    for column in (change_usd, balance_usd):
        column.admin_order_field = None  # type: ignore[attr-defined]
    del column

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.refund)
        return [path("<uuid:pk>/refund/", view, name="billing_entry_refund"), *super().get_urls()]

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        extra: dict[str, Any] = {}
        entry = self.get_object(request, object_id)
        if entry is not None and entry.kind in _REFUNDABLE:
            left = ledger.refundable(entry)
            if left:
                extra["console_actions"] = [("Refund", reverse("admin:billing_entry_refund", args=[entry.pk]), "")]
            extra["console_note"] = f"{usd(left)} of {usd(entry.amount)} is left to refund."
        return super().change_view(request, object_id, form_url, {**extra, **(extra_context or {})})

    @console.fresh
    def refund(self, request: HttpRequest, pk: Any) -> HttpResponse:
        """Take back a charge or a purchase, in part or whole; much waits for a second operator."""
        entry = get_object_or_404(Entry.objects.select_related("wallet__organization"), pk=pk)
        if entry.kind not in _REFUNDABLE:
            raise Http404("only charges and purchases are refunded")
        left, organization = ledger.refundable(entry), entry.wallet.organization

        def book(form: Form) -> str:
            data = form.cleaned_data
            booked = approvals.refund(
                entry=entry,
                amount_nano=data["amount"],
                reason=data["reason"],
                id=data["request_id"],
                actor=console.require_operator(request),
                address=audit.client_address(request),
            )
            if isinstance(booked, PendingAdjustment):
                return _WAITS.format(usd(booked.amount), organization)
            return f"{usd(booked.amount)} refunded to {organization}."

        gives = "Credits return to the wallet." if entry.kind == Entry.Kind.USAGE else "Credits leave the wallet."
        return _booking_page(
            self,
            request,
            RefundForm(request.POST or None, initial={"amount": usd(left).lstrip("$").replace(",", "")}),
            book,
            title="Refund",
            about=[
                *_about(entry.wallet),
                ("Entry", f"{entry.get_kind_display()} of {usd(entry.amount)}, {entry.reason}"),
                ("Left to refund", usd(left)),
                ("What happens", gives),
            ],
            back=reverse("admin:billing_entry_change", args=[pk]),
        )


@admin.register(Hold)
class HoldAdmin(console.ReadOnlyTable):
    """Credits reserved for calls."""

    paginator = InfinitePaginator
    list_display = ("id", "wallet", "amount_usd", "state", "created_at", "resolved_at")
    list_filter = ("state",)
    list_select_related = ("wallet__organization",)
    search_fields = ("=id", "=owner")
    # Ids are sorted by time; there is no index of the time itself.
    ordering = ("-id",)
    fields = ("id", "wallet", "amount_usd", "state", "owner", "deadline_at", "created_at", "resolved_at")

    amount_usd = _amount("amount", "amount")


@admin.register(Grant)
class GrantAdmin(console.ReadOnlyTable):
    """Credits given, and what is left of those that expire."""

    list_display = ("created_at", "wallet", "amount_usd", "remaining_usd", "expires_at")
    list_select_related = ("wallet__organization",)
    ordering = ("-created_at", "-id")
    fields = ("id", "wallet", "amount_usd", "remaining_usd", "expires_at", "created_at")

    amount_usd = _amount("amount", "amount")
    remaining_usd = _amount("remaining", "left to expire")


class ChargedNow(admin.SimpleListFilter):
    """The version of each model that is charged now, unless somebody asks for all of them."""

    title = "version"
    parameter_name = "version"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("now", "Charged now")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ModelRates]) -> QuerySet[ModelRates]:
        if self.value() != "now":
            return queryset
        newest = ModelRates.objects.order_by("provider", "model", "-id").distinct("provider", "model")
        return queryset.filter(pk__in=newest.values("pk"))


@admin.register(ModelRates)
class ModelRatesAdmin(console.ReadOnlyTable):
    """Prices by version, in USD per million tokens; from the catalogue. A record shows its model's history."""

    list_display = ("model", "provider", "input_usd", "output_usd", "cache_read_usd", "cache_write_usd", "valid_from")
    list_filter = (ChargedNow, "provider")
    search_fields = ("model",)
    ordering = ("provider", "model", "-id")
    fields = (
        "id", "provider", "model", "input_usd", "output_usd", "cache_read_usd", "cache_write_usd",
        "cache_write_1h_usd", "request_usd", "image_usd", "valid_from",
    )  # fmt: skip
    change_form_outer_after_template = "billing/admin/rates_history.html"

    input_usd = _amount("input", "input")
    output_usd = _amount("output", "output")
    cache_read_usd = _amount("cache_read", "cache read")
    cache_write_usd = _amount("cache_write", "cache write")
    cache_write_1h_usd = _amount("cache_write_1h", "cache write, 1 hour")
    request_usd = _amount("request", "a million calls")
    image_usd = _amount("image", "a million images")

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        rates = self.get_object(request, object_id)
        history = prices.history(rates.provider, rates.model) if rates is not None else []
        return super().change_view(request, object_id, form_url, {"history": history, **(extra_context or {})})


@admin.register(PendingAdjustment)
class PendingAdjustmentAdmin(console.ReadOnlyTable):
    """What is above the limit of one person: somebody else than the proposer approves."""

    list_display = ("created_at", "kind", "wallet", "amount_usd", "reason", "proposed_by", "state_label", "decided_by")
    list_filter = ("state", "kind")
    list_select_related = ("wallet__organization", "proposed_by", "decided_by")
    ordering = ("-created_at", "-id")
    actions = ("approve", "reject")
    fields = (
        "id", "kind", "wallet", "amount_usd", "corrects", "expires_at", "reason", "state", "proposed_by",
        "created_at", "decided_by", "decided_at",
    )  # fmt: skip
    change_form_outer_before_template = "admin/console_actions.html"

    amount_usd = _amount("amount", "amount")

    @console.label("state", {"waiting": "warning", "approved": "success", "rejected": "danger"})
    def state_label(self, pending: PendingAdjustment) -> str:
        return pending.state

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.decide)
        return [path("<uuid:pk>/decide/", view, name="billing_pendingadjustment_decide"), *super().get_urls()]

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        pending = self.get_object(request, object_id)
        links = []
        if pending is not None and pending.state == PendingAdjustment.State.WAITING:
            url = reverse("admin:billing_pendingadjustment_decide", args=[pending.pk])
            links = [("Approve", f"{url}?as=approve", ""), ("Reject", f"{url}?as=reject", "default")]
        return super().change_view(request, object_id, form_url, {"console_actions": links, **(extra_context or {})})

    @console.fresh
    def decide(self, request: HttpRequest, pk: Any) -> HttpResponse:
        """Approve or reject one, on a page that says what it is."""
        pending = get_object_or_404(PendingAdjustment.objects.select_related("wallet__organization"), pk=pk)
        is_approval = request.GET.get("as") != "reject"

        def decide(form: Form) -> str:
            decided = (approvals.approve if is_approval else approvals.reject)(
                pending.pk, actor=console.require_operator(request), address=audit.client_address(request)
            )
            return f"{usd(decided.amount)} for {decided.wallet.organization}: {decided.state}."

        return _booking_page(
            self,
            request,
            Form(request.POST if request.method == "POST" else None),
            decide,
            title="Approve" if is_approval else "Reject",
            about=[
                *_about(pending.wallet),
                ("What", f"{pending.get_kind_display()} of {usd(pending.amount)}"),
                ("Reason", pending.reason),
                ("Proposed by", pending.proposed_by),
            ],
            back=reverse("admin:billing_pendingadjustment_change", args=[pk]),
        )

    @admin.action(description="Approve")
    @console.fresh
    def approve(self, request: HttpRequest, queryset: QuerySet[PendingAdjustment]) -> None:
        """Book the chosen ones as their second person."""
        self._decide(request, queryset, approvals.approve)

    @admin.action(description="Reject")
    @console.fresh
    def reject(self, request: HttpRequest, queryset: QuerySet[PendingAdjustment]) -> None:
        """Drop the chosen ones."""
        self._decide(request, queryset, approvals.reject)

    def _decide(
        self, request: HttpRequest, queryset: QuerySet[PendingAdjustment], decide: Callable[..., PendingAdjustment]
    ) -> None:
        for pk in queryset.values_list("pk", flat=True):
            try:
                decided = decide(pk, actor=console.require_operator(request), address=audit.client_address(request))
            except Error as error:
                self.message_user(request, error.message, messages.ERROR)
            else:
                self.message_user(request, f"{usd(decided.amount)} for {decided.wallet}: {decided.state}.")


@admin.register(RedeemCode)
class RedeemCodeAdmin(console.ReadOnlyTable):
    """Codes that add credits; the code itself is shown once, when it is made."""

    list_display = ("ends_in", "amount_usd", "used", "max_uses", "organization", "state", "expires_at", "note")
    list_select_related = ("organization",)
    search_fields = ("hint", "note")
    ordering = ("-created_at", "-id")
    fields = (
        "ends_in", "amount_usd", "used", "max_uses", "organization", "state", "expires_at", "note", "created_by",
        "created_at",
    )  # fmt: skip
    change_form_outer_before_template = "admin/console_actions.html"
    change_form_outer_after_template = "billing/admin/redemptions.html"

    amount_usd = _amount("amount", "amount")

    def get_queryset(self, request: HttpRequest) -> QuerySet[RedeemCode]:
        rows: QuerySet[RedeemCode] = super().get_queryset(request).annotate(uses=Count("redemptions"))
        return rows

    @admin.display(description="code", ordering="hint")
    def ends_in(self, code: RedeemCode) -> str:
        return str(code)

    @admin.display(description="used", ordering="uses")
    def used(self, code: Any) -> int:
        return int(code.uses)

    @console.label("state", {"open": "success", "used up": "info", "over": "warning"})
    def state(self, code: Any) -> str:
        if code.expires_at and code.expires_at <= timezone.now():
            return "over"
        return "used up" if code.uses >= code.max_uses else "open"

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return console.is_operator(request)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.disable)
        return [path("<uuid:pk>/disable/", view, name="billing_redeemcode_disable"), *super().get_urls()]

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        code = self.get_object(request, object_id)
        extra: dict[str, Any] = {}
        if code is not None:
            of = ("wallet__organization", "redeemed_by")
            extra["redemptions"] = code.redemptions.select_related(*of).order_by("-created_at", "-id")[:100]
            if self.state(code) == "open":
                url = reverse("admin:billing_redeemcode_disable", args=[code.pk])
                extra["console_actions"] = [("Disable this code", url, "danger")]
        return super().change_view(request, object_id, form_url, {**extra, **(extra_context or {})})

    @console.fresh
    def disable(self, request: HttpRequest, pk: Any) -> HttpResponse:
        """Ask, then end a code."""
        code = get_object_or_404(self.get_queryset(request).select_related("organization"), pk=pk)
        back = reverse("admin:billing_redeemcode_change", args=[pk])
        if request.method == "POST":
            actor, address = console.require_operator(request), audit.client_address(request)
            codes.disable(code, actor=actor, address=address)
            self.message_user(request, f"The code {code} adds nothing any more.", messages.SUCCESS)
            return redirect(back)
        return console.form_page(
            self,
            request,
            Form(),
            title="Disable redeem code",
            button="Disable this code",
            lead=["Nobody can redeem it any more; credits it has added stay where they are."],
            about=[("Code", code), ("Adds", usd(code.amount)), ("Used", f"{self.used(code)} of {code.max_uses}")],
            back=back,
            danger=True,
        )

    @console.fresh
    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """Make a code and answer with it; a redirect would have to keep it somewhere in clear."""
        form = RedeemCodeForm(request.POST or None)
        back, title = reverse("admin:billing_redeemcode_changelist"), "Create redeem code"
        if request.method != "POST" or not form.is_valid():
            return console.form_page(self, request, form, title=title, back=back)
        data = form.cleaned_data
        made, text = codes.create(
            amount_nano=data["amount"],
            max_uses=data["max_uses"],
            organization=data["organization"],
            expires_at=data["expires_at"],
            note=data["note"],
            actor=console.require_operator(request),
            address=audit.client_address(request),
        )
        context = {**self.admin_site.each_context(request), "title": title, "back": back, "made": made, "text": text}
        return TemplateResponse(
            request,
            "billing/admin/redeem_code_created.html",
            context,
            headers={"Cache-Control": "private, no-store"},
        )
