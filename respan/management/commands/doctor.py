"""`manage.py doctor`: says what is wrong with this installation and what to do; exits with 1 if something fails.

Changes nothing and shows no secret. Neighbours: `respan/doctor.py` and `respan/doctor_parts.py`, which look.
"""

import json
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any, Final

from django.core.management.base import BaseCommand

from respan import doctor, doctor_parts

_ALONE: Final[list[doctor.Look]] = [doctor_parts.look_at_redis, doctor_parts.look_at_spool]
_TABLES: Final[list[doctor.Look]] = [
    doctor_parts.look_at_broker,
    doctor_parts.look_at_shipper,
    doctor_parts.look_at_workers,
]
AREAS: Final = (
    "secrets", "address", "people", "ways-out", "redis", "spool", "database", "broker", "shipper", "workers",
    "provider-keys", "catalogue", "operator",
)  # fmt: skip


class Command(BaseCommand):
    """Prints one line for each finding, or one JSON object."""

    help = "Examine this installation: settings, secrets, database, broker, Redis, spool, processes, keys, catalogue."
    requires_system_checks = ()  # a broken setting is a finding

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object: {ok, findings: [...]}")
        parser.add_argument("--only", nargs="+", choices=AREAS, default=[], metavar="AREA", help=", ".join(AREAS))

    def handle(self, *args: Any, **options: Any) -> None:
        findings = []
        for finding in doctor.examine(
            alone=_ALONE, database=doctor_parts.look_at_database, tables=_TABLES, only=frozenset(options["only"])
        ):
            findings.append(finding)
            if not options["json"]:
                self._line(finding)
        failed = sum(finding.state == "fail" for finding in findings)
        warned = sum(finding.state == "warn" for finding in findings)
        if options["json"]:
            self.stdout.write(json.dumps({"ok": not failed, "findings": [asdict(each) for each in findings]}, indent=2))
        else:
            self.stdout.write(f"\n{len(findings)} findings: {failed} fail, {warned} warn.")
        if failed:
            raise SystemExit(1)

    def _line(self, finding: doctor.Finding) -> None:
        style = {"ok": self.style.SUCCESS, "warn": self.style.WARNING, "fail": self.style.ERROR}[finding.state]
        self.stdout.write(f"{style(f'{finding.state:4}')}  {finding.area:13}  {finding.text}")
        if finding.advice:
            self.stdout.write(f"{'':21}-> {finding.advice}")
        self.stdout.flush()
