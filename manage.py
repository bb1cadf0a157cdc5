#!/usr/bin/env python3
"""Runs Django's commands. Never holds logic; `manage.py up` (respan/management/commands/up.py) starts the product."""

import os
import sys

from respan import bootstrap


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "respan.settings")
    with bootstrap.prepared(sys.argv[1:]):
        from django.core.management import execute_from_command_line

        import respan.celery  # noqa: F401  (tasks published from a command go to our broker, not to a default one)

        execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
