"""The Celery application: trace ingestion, cost accounting, sweeps. Holds no task itself; each app has its `tasks.py`.

Imported by `manage.py` and `respan/asgi.py`, so that whoever publishes does so to our broker.
"""

import os

from celery import Celery
from celery.signals import setup_logging
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "respan.settings")
# `manage.py up` and `check` have judged the settings; Celery would do it again at each start and go on regardless.
os.environ.setdefault("CELERY_SKIP_CHECKS", "true")

app = Celery("respan")
_is_pgmq = settings.CELERY_BROKER_URL.startswith("pgmq:")
app.conf.update(
    broker_url=settings.CELERY_BROKER_URL,
    broker_connection_retry_on_startup=True,
    # The SQL of pgmq comes from a migration; a prefetch of 1 would poll only about five messages a second.
    broker_transport_options=(
        {
            "visibility_timeout": 30,
            "init_extension": False,
            "polling_interval": 0.05,
            "use_notify": True,
            "wait_time_seconds": 0,
            "pool_timeout": 3,
        }
        if _is_pgmq
        else {"confirm_publish": True}
        if settings.CELERY_BROKER_URL.startswith("amqp")
        else {"visibility_timeout": 30}
    ),
    worker_prefetch_multiplier=8 if _is_pgmq else 1,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    task_serializer="json",
    accept_content=["json"],
    task_soft_time_limit=15,
    task_time_limit=20,
    task_default_queue="respan",
    task_publish_retry_policy={"max_retries": 2, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.5},
    beat_schedule_filename=str(settings.RESPAN_DATA_DIR / "celerybeat-schedule"),
    timezone="UTC",
)
# A connection lives as long as its worker child: Celery would make a new one for every task.
app.conf.CELERY_DB_REUSE_MAX = 1_000
app.set_default()
if settings.CELERY_BROKER_URL.startswith("amqp"):
    app.conf.update(task_default_queue_type="quorum", worker_detect_quorum_queues=True)
app.autodiscover_tasks(["accounts", "billing", "traces", "gateway"])
app.conf.beat_schedule = {
    "attach span partitions": {"task": "traces.maintain_partitions", "schedule": 3600.0},
    "enforce retention": {"task": "traces.enforce_retention", "schedule": 300.0},
    "nudge late batches": {"task": "traces.nudge_batches", "schedule": 10.0},
    "reap orphaned holds": {"task": "billing.reap_holds", "schedule": 30.0},
    "forget ended sessions": {"task": "accounts.forget_ended_sessions", "schedule": 600.0},
    "forget limit counters": {"task": "gateway.forget_limit_counters", "schedule": 3600.0},
    "expire grants": {"task": "billing.expire_grants", "schedule": 300.0},
    "forget idempotent calls": {"task": "gateway.forget_idempotent_calls", "schedule": 60.0},
    "sweep cached answers": {"task": "gateway.sweep_cache", "schedule": 60.0},
}


@setup_logging.connect
def _use_our_logging(**_: object) -> None:
    """Celery would install its own log handlers: ours are installed by Django's set-up already."""
