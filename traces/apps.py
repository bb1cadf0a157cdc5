"""The app's configuration. After every `migrate` the span tables get their partitions: a first call finds them.

Neighbours: `store/partitions.py`, `accounts.audit` (what our actions are called).
"""

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate


def _attach_partitions(*, using: str, **_: Any) -> None:
    from django.db import connections
    from django.utils import timezone

    from traces.store.partitions import attach_partitions

    if "traces_span" in connections[using].introspection.table_names():
        attach_partitions(now=timezone.now())


class TracesConfig(AppConfig):
    name = "traces"

    def ready(self) -> None:
        from accounts import audit

        audit.add_actions(
            {
                "logs.exported": "Exported logs",
                "batch.replayed": "Replayed a batch of records (operator)",
                "dead_letter.replayed": "Replayed a dead letter (operator)",
            }
        )
        post_migrate.connect(_attach_partitions, sender=self)
