"""The operator's console for ingestion: batches on their way into the store, and what could not be stored.

Shows counts, times and reasons, never a record: neither a batch's blob nor a dead letter's bytes are even read for a
page. A replay puts things back where the workers find them. Neighbours: `accounts.console` (what all tables share),
`replay.py`, `loading.py`.
"""

import re
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Length
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.defaultfilters import filesizeformat
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from unfold.paginator import InfinitePaginator

from accounts import audit, console
from traces import replay
from traces.loading import MOST_ATTEMPTS
from traces.models import DeadLetter, IngestBatch

# A database's message names the value it refuses, in quotes or behind DETAIL and CONTEXT: that may be a customer's.
_VALUES = re.compile(r"""(["'`]).*?(?:\1|$)""", re.DOTALL)


def plain_reason(reason: str) -> str:
    """Return why something could not be stored, without any value it speaks of."""
    first = reason.partition("\n")[0].partition("CONTEXT:")[0].partition("DETAIL:")[0]
    return _VALUES.sub("“…”", first)[:200]


class StateFilter(admin.SimpleListFilter):
    """Which batches: those that wait, that failed at least once, or that are done."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("waiting", "Waiting"), ("failed", "Waiting after a failure"), ("done", "Done")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[IngestBatch]) -> QuerySet[IngestBatch]:
        match self.value():
            case "waiting":
                return queryset.filter(done_at=None)
            case "failed":
                return queryset.filter(done_at=None, attempts__gt=1)
            case "done":
                return queryset.filter(done_at__isnull=False)
        return queryset


@admin.register(IngestBatch)
class IngestBatchAdmin(console.ReadOnlyTable):
    """Batches; those that are done are forgotten after a week."""

    list_display = ("id", "created_at", "records", "state", "attempts", "size", "claimed_at", "done_at")
    list_filter = (StateFilter,)
    search_fields = ("=id",)
    ordering = (F("done_at").desc(nulls_first=True), "-id")
    sortable_by = ()
    fields = ("id", "created_at", "records", "state", "attempts", "size", "claimed_at", "nudged_at", "done_at")
    actions = ("replay",)
    paginator = InfinitePaginator
    change_form_outer_before_template = "admin/console_actions.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[IngestBatch]:
        rows: QuerySet[IngestBatch] = super().get_queryset(request).defer("blob").annotate(blob_bytes=Length("blob"))
        return rows

    @console.label("state", {"waiting": "info", "done": "success", "failing": "danger"})
    def state(self, batch: IngestBatch) -> str:
        if batch.done_at:
            return "done"
        return "failing" if batch.attempts > 1 else "waiting"

    @admin.display(description="size")
    def size(self, batch: Any) -> str:
        return filesizeformat(batch.blob_bytes) if batch.blob_bytes else ""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.replay_one)
        return [path("<uuid:pk>/replay/", view, name="traces_ingestbatch_replay"), *super().get_urls()]

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        batch = self.get_object(request, object_id)
        links = []
        if batch is not None and batch.done_at is None:
            links = [("Replay", reverse("admin:traces_ingestbatch_replay", args=[batch.pk]), "default")]
        return super().change_view(request, object_id, form_url, {"console_actions": links, **(extra_context or {})})

    @admin.action(description="Replay the chosen batches")
    @console.fresh
    def replay(self, request: HttpRequest, queryset: QuerySet[IngestBatch]) -> None:
        self._replay(request, list(queryset.values_list("pk", flat=True)))

    @console.fresh
    def replay_one(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        """Ask, then let a batch begin anew."""
        batch = get_object_or_404(self.get_queryset(request), pk=pk)
        back = reverse("admin:traces_ingestbatch_change", args=[pk])
        if request.method == "POST":
            self._replay(request, [pk])
            return redirect(back)
        return console.form_page(
            self,
            request,
            forms.Form(),
            title="Replay batch",
            button="Replay",
            lead=["Its attempts count from zero and the workers are told of it. A batch that is done stays done."],
            about=[("Batch", batch.pk), ("Records", batch.records), ("Attempts", f"{batch.attempts}")],
            back=back,
        )

    def _replay(self, request: HttpRequest, ids: list[UUID]) -> None:
        done = 0
        for id_ in ids:
            with transaction.atomic():
                if replay.batch(id_, now=timezone.now()):
                    done += 1
                    _record(request, "batch.replayed", f"batch {id_}")
        said = f"{done} of {len(ids)} queued anew." if done else "Nothing to replay: done, or being loaded now."
        self.message_user(request, said, messages.SUCCESS if done else messages.WARNING)


@admin.register(DeadLetter)
class DeadLetterAdmin(console.ReadOnlyTable):
    """Records and whole batches that could not be stored, kept with the reason until somebody replays them."""

    list_display = ("id", "created_at", "what", "why", "size", "batch_id")
    list_filter = ("is_blob",)
    search_fields = ("=batch_id",)
    ordering = ("-id",)
    fields = ("id", "created_at", "what", "why", "size", "batch_id")
    actions = ("replay",)
    change_form_outer_before_template = "admin/console_actions.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[DeadLetter]:
        rows: QuerySet[DeadLetter] = super().get_queryset(request).defer("raw").annotate(raw_bytes=Length("raw"))
        return rows

    @admin.display(description="what")
    def what(self, letter: DeadLetter) -> str:
        return f"a batch, after {MOST_ATTEMPTS} attempts or unreadable" if letter.is_blob else "a record"

    @admin.display(description="reason")
    def why(self, letter: DeadLetter) -> str:
        return plain_reason(letter.reason)

    @admin.display(description="size")
    def size(self, letter: Any) -> str:
        return filesizeformat(letter.raw_bytes)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.replay_one)
        return [path("<int:pk>/replay/", view, name="traces_deadletter_replay"), *super().get_urls()]

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        links = []
        if object_id.isdecimal():
            links = [("Replay", reverse("admin:traces_deadletter_replay", args=[object_id]), "default")]
        return super().change_view(request, object_id, form_url, {"console_actions": links, **(extra_context or {})})

    @admin.action(description="Replay the chosen dead letters")
    @console.fresh
    def replay(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> None:
        self._replay(request, list(queryset.values_list("pk", flat=True)))

    @console.fresh
    def replay_one(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Ask, then make a dead letter a batch again."""
        back = reverse("admin:traces_deadletter_changelist")
        if request.method == "POST":
            self._replay(request, [pk])
            return redirect(back)
        letter = get_object_or_404(self.get_queryset(request), pk=pk)
        return console.form_page(
            self,
            request,
            forms.Form(),
            title="Replay dead letter",
            button="Replay",
            lead=[
                "It becomes a batch of its own and the workers are told of it. What fails again comes back here.",
                "Its hold was released when it was set aside: the call stays uncharged.",
            ],
            about=[("Reason", plain_reason(letter.reason)), ("Size", self.size(letter))],
            back=back,
        )

    def _replay(self, request: HttpRequest, ids: list[int]) -> None:
        done = 0
        for id_ in ids:
            with transaction.atomic():
                batch_id = replay.letter(id_, now=timezone.now())
                if batch_id is not None:
                    done += 1
                    _record(request, "dead_letter.replayed", f"dead letter {id_}", batch=str(batch_id))
        said = f"{done} of {len(ids)} queued anew." if done else "Nothing to replay: it was replayed before."
        self.message_user(request, said, messages.SUCCESS if done else messages.WARNING)


def _record(request: HttpRequest, action: str, target: str, **detail: str) -> None:
    audit.record(
        organization=None,
        actor=console.require_operator(request),
        action=action,
        target=target,
        detail=detail,
        address=audit.client_address(request),
    )
