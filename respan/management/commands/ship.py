"""`manage.py ship`: publishes this host's spool to Celery until it is told to stop. See `traces/shipper.py`."""

import signal
import threading
from types import FrameType
from typing import Any

from django.core.management.base import BaseCommand

from traces import shipper


class Command(BaseCommand):
    """Runs the shipper; SIGTERM and SIGINT let it publish what it has and leave."""

    help = "Publish this host's spool of calls (one process for each host with a web process)."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        stop = threading.Event()

        def leave(_number: int, _frame: FrameType | None) -> None:
            stop.set()

        signal.signal(signal.SIGTERM, leave)
        signal.signal(signal.SIGINT, leave)
        shipper.run(stop)
