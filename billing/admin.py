"""The operator's console for money: what is in the wallets, granting, adjusting, redeem codes, rates.

Wallets, entries, holds and rates are read-only; nothing can be deleted. What moves money goes through `ledger.py` and
`codes.py`, with a reason and into the audit log. For operators (`is_superuser`) only.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.forms import Form
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from accounts import audit
from accounts.models import User
from billing import codes, ledger
from billing.forms import AdjustForm, GrantForm, RedeemCodeForm
from billing.models import Entry, Grant, Hold, ModelRates, PendingAdjustment, RedeemCode, Wallet
from billing.usage import usd
from respan.errors import Error

# Django's admin classes take parameters only in the type checker's eyes.
if TYPE_CHECKING:
    AnyAdmin = admin.ModelAdmin[Any]
else:
    AnyAdmin = admin.ModelAdmin


def _operator(request: HttpRequest) -> User:
    assert isinstance(request.user, User)  # noqa: S101  (`ReadOnly` lets nobody else through)
    return request.user


def _amount(field: str, title: str) -> Callable[[Any, Any], str]:
    """Return a column that shows an amount as exact US dollars."""

    @admin.display(description=title, ordering=field)
    def column(self: Any, record: Any) -> str:
        value = getattr(record, field)
        return "" if value is None else usd(value)

    return column


class ReadOnly(AnyAdmin):
    """Operators see, nobody changes or deletes."""

    list_per_page = 50
    show_full_result_count = False

    def require_operator(self, request: HttpRequest) -> None:
        """Raises: PermissionDenied for staff who are no operators."""
        if not self.has_module_permission(request):
            raise PermissionDenied

    def has_module_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.is_active and getattr(request.user, "is_superuser", False))

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self.has_module_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


@admin.register(Wallet)
class WalletAdmin(ReadOnly):
    """Balances; its two actions grant and adjust."""

    list_display = ("organization", "posted_usd", "held_usd", "available_usd")
    list_select_related = ("organization",)
    search_fields = ("organization__name", "organization__public_id")
    fields = ("organization", "posted_usd", "held_usd", "available_usd", "next_expiry_at", "created_at")
    change_form_template = "billing/admin/wallet.html"

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

    def grant(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Give an organization credits."""

        def book(form: Form, wallet: Wallet) -> str:
            data = form.cleaned_data
            entry = ledger.grant(
                organization=wallet.organization,
                amount_nano=data["amount"],
                reason=data["reason"],
                expires_at=data["expires_at"],
                id=data["request_id"],
                actor=_operator(request),
                address=audit.client_address(request),
            )
            return f"{usd(entry.amount)} granted to {wallet.organization}."

        return self._by_hand(request, pk, GrantForm, "Grant credits", book)

    def adjust(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Correct a balance; a large correction waits for a second operator."""

        def book(form: Form, wallet: Wallet) -> str:
            data = form.cleaned_data
            booked = ledger.propose_adjustment(
                organization=wallet.organization,
                amount_nano=data["amount"],
                reason=data["reason"],
                id=data["request_id"],
                actor=_operator(request),
                address=audit.client_address(request),
            )
            if isinstance(booked, PendingAdjustment):
                return f"{usd(booked.amount)} for {wallet.organization} waits for a second operator's approval."
            return f"{usd(booked.change)} adjusted for {wallet.organization}."

        return self._by_hand(request, pk, AdjustForm, "Adjust", book)

    def _by_hand(
        self, request: HttpRequest, pk: int, form_class: type[Form], title: str, book: Callable[[Form, Wallet], str]
    ) -> HttpResponse:
        """Show a form, book what it asks for, say what was done."""
        self.require_operator(request)
        wallet = get_object_or_404(Wallet.objects.select_related("organization"), pk=pk)
        back = reverse("admin:billing_wallet_change", args=[pk])
        form = form_class(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                said = book(form, wallet)
            except Error as error:
                form.add_error(None, error.message)
            else:
                self.message_user(request, said, messages.SUCCESS)
                return redirect(back)
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "form": form,
            "wallet": wallet,
            "back": back,
        }
        return TemplateResponse(request, "billing/admin/form.html", context, status=400 if form.errors else 200)


@admin.register(Entry)
class EntryAdmin(ReadOnly):
    """Every movement of money."""

    list_display = ("created_at", "wallet", "kind", "change_usd", "balance_usd", "reason", "actor")
    list_filter = ("kind", "created_at")
    list_select_related = ("wallet__organization", "actor")
    search_fields = ("=id", "=hold_id", "wallet__organization__public_id", "reason")
    ordering = ("-number",)
    exclude = ("amount", "balance")
    readonly_fields = ("amount_usd", "change_usd", "balance_usd")

    amount_usd = _amount("amount", "amount")
    change_usd = _amount("change", "change of the wallet")
    balance_usd = _amount("balance", "balance after it")
    change_usd.admin_order_field = None  # type: ignore[attr-defined]  # not a column of the table


@admin.register(Hold)
class HoldAdmin(ReadOnly):
    """Credits reserved for calls."""

    list_display = ("id", "wallet", "amount_usd", "state", "created_at", "resolved_at")
    list_filter = ("state",)
    list_select_related = ("wallet__organization",)
    search_fields = ("=id", "=owner")
    ordering = ("-created_at",)
    exclude = ("amount",)
    readonly_fields = ("amount_usd",)

    amount_usd = _amount("amount", "amount")


@admin.register(Grant)
class GrantAdmin(ReadOnly):
    """Credits given, and what is left of those that expire."""

    list_display = ("created_at", "wallet", "amount_usd", "remaining_usd", "expires_at")
    list_select_related = ("wallet__organization",)
    exclude = ("amount", "remaining")
    readonly_fields = ("amount_usd", "remaining_usd")

    amount_usd = _amount("amount", "amount")
    remaining_usd = _amount("remaining", "left to expire")


@admin.register(ModelRates)
class ModelRatesAdmin(ReadOnly):
    """Prices by version, in USD per million tokens; they come from the catalogue."""

    list_display = ("provider", "model", "input_usd", "output_usd", "cache_read_usd", "cache_write_usd", "valid_from")
    list_filter = ("provider",)
    search_fields = ("model",)
    ordering = ("provider", "model", "-id")

    input_usd = _amount("input", "input")
    output_usd = _amount("output", "output")
    cache_read_usd = _amount("cache_read", "cache read")
    cache_write_usd = _amount("cache_write", "cache write")


@admin.register(PendingAdjustment)
class PendingAdjustmentAdmin(ReadOnly):
    """Adjustments above the limit of one person: somebody else than the proposer approves."""

    list_display = ("created_at", "wallet", "amount_usd", "reason", "proposed_by", "state", "decided_by")
    list_filter = ("state",)
    list_select_related = ("wallet__organization", "proposed_by", "decided_by")
    actions = ("approve", "reject")
    exclude = ("amount",)
    readonly_fields = ("amount_usd",)

    amount_usd = _amount("amount", "amount")

    @admin.action(description="Approve")
    def approve(self, request: HttpRequest, queryset: QuerySet[PendingAdjustment]) -> None:
        """Book the chosen adjustments as their second person."""
        self._decide(request, queryset, ledger.approve)

    @admin.action(description="Reject")
    def reject(self, request: HttpRequest, queryset: QuerySet[PendingAdjustment]) -> None:
        """Drop the chosen adjustments."""
        self._decide(request, queryset, ledger.reject)

    def _decide(
        self, request: HttpRequest, queryset: QuerySet[PendingAdjustment], decide: Callable[..., PendingAdjustment]
    ) -> None:
        for pk in queryset.values_list("pk", flat=True):
            try:
                decided = decide(pk, actor=_operator(request), address=audit.client_address(request))
            except Error as error:
                self.message_user(request, error.message, messages.ERROR)
            else:
                self.message_user(request, f"{usd(decided.amount)} for {decided.wallet}: {decided.state}.")


@admin.register(RedeemCode)
class RedeemCodeAdmin(ReadOnly):
    """Codes that add credits; the code itself is shown once, when it is made."""

    list_display = ("__str__", "amount_usd", "used", "max_uses", "organization", "expires_at", "note", "created_by")
    list_select_related = ("organization", "created_by")
    search_fields = ("hint", "note")
    ordering = ("-created_at",)
    exclude = ("amount",)
    readonly_fields = ("amount_usd", "used")

    amount_usd = _amount("amount", "amount")

    @admin.display(description="used")
    def used(self, code: RedeemCode) -> int:
        return code.redemptions.count()

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.has_module_permission(request)

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """Make a code and answer with it; a redirect would have to keep it somewhere in clear."""
        self.require_operator(request)
        form = RedeemCodeForm(request.POST or None)
        back = reverse("admin:billing_redeemcode_changelist")
        context = {**self.admin_site.each_context(request), "title": "Create redeem code", "form": form, "back": back}
        if request.method != "POST" or not form.is_valid():
            return TemplateResponse(request, "billing/admin/form.html", context, status=400 if form.errors else 200)
        data = form.cleaned_data
        made, text = codes.create(
            amount_nano=data["amount"],
            max_uses=data["max_uses"],
            organization=data["organization"],
            expires_at=data["expires_at"],
            note=data["note"],
            actor=_operator(request),
            address=audit.client_address(request),
        )
        return TemplateResponse(
            request, "billing/admin/redeem_code_created.html", {**context, "made": made, "text": text}
        )
