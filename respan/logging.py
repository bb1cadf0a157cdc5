"""Structured logs of the processes: one JSON object a line in production, readable lines on loopback.

Never logs bodies; `_scrub` is the second line of defence against secrets in a message.
"""

import logging
import re
import sys
from typing import Any

import structlog

# API keys of ours and of providers, and whatever follows `Bearer`.
_SECRET = re.compile(r"(rsp_(?:live|test)_[0-9A-Za-z]{6}|sk-[0-9A-Za-z_-]{4}|Bearer )[0-9A-Za-z._~+/=-]+")


def _scrub(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = _SECRET.sub(r"\1…", value)
    return event


def configure(config: dict[str, Any]) -> None:
    """Install our handlers (Django calls this through LOGGING_CONFIG)."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _scrub,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if config["json"]
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config["level"])
    for noisy in (
        "httpx",
        "aiohttp.access",
        "celery.beat",
        "celery.app.trace",
        "celery.worker.strategy",
        "psycopg.pool",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
