"""What the drills share: a whole installation with the fake provider's models, a tenant in it, and its books."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from respan import embedded
from respan.embedded import Cluster
from tests import stack
from tests.provider import Provider
from tests.servers import REPOSITORY, Installation, wait_until
from tests.traffic import Traffic


@dataclass
class Site:
    """A running installation, its provider, and a customer with credits."""

    installation: Installation
    provider: Provider
    cluster: Cluster | None = None  # the database, where the drill stops it
    organization_id: int = 0
    api_key: str = ""
    granted_nano: int = 0

    def customer(self, credits_usd: str) -> None:
        """Make the customer this drill charges."""
        made = self._seed({"credits_usd": credits_usd})
        self.organization_id, self.api_key = made["organization_id"], made["api_key"]
        self.granted_nano = self.books()["posted"]

    def books(self) -> dict[str, Any]:
        """Return what ledger and trace store say of the customer."""
        return self._seed({"report": self.organization_id})

    def verify_ledger(self) -> subprocess.CompletedProcess[str]:
        return self._run(["manage.py", "verify_ledger"])

    def traffic(self, model: str, **options: Any) -> Traffic:
        return Traffic(self.installation.base_url, self.api_key, model=model, **options)

    def settled(self, *, spans: int, timeout_s: float) -> dict[str, Any]:
        """Wait until no hold is open and at least so many calls are traced; return the books."""
        books: dict[str, Any] = {}

        def quiet() -> bool:
            books.update(self.books())
            return books["held"] == 0 and "open" not in books["holds"] and books["count"] >= spans

        try:
            wait_until(quiet, timeout_s=timeout_s, what="every call to be traced and every hold to be resolved")
        except AssertionError as error:
            raise AssertionError(f"{error}: {books}, {spans} spans wanted") from error
        return books

    def _seed(self, wanted: dict[str, Any]) -> dict[str, Any]:
        done = self._run(["-m", "tests.seed", json.dumps(wanted)])
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        env = self.installation.env | {"DATABASE_URL": self.installation.database_url}
        return subprocess.run(
            [sys.executable, *command], cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=120
        )


@pytest.fixture
def site(installation: Callable[..., Installation], tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Start an installation with `manage.py up` and its shipped defaults: `site(web_processes=2)`.

    `own_cluster`: its database is a server of the drill's own, which `up` does not start again when it is stopped.
    """
    providers: list[Provider] = []
    clusters: list[Cluster] = []

    def start(*, web_processes: int = 1, own_cluster: bool = False) -> Site:
        provider = Provider().start()
        providers.append(provider)
        env = stack.environment(tmp_path, provider)
        if web_processes > 1:
            env["RESPAN_WEB_PROCESSES"] = str(web_processes)
        if not own_cluster:
            return Site(installation(env=env), provider)
        cluster = embedded.use(tmp_path / "database")
        clusters.append(cluster)
        return Site(installation(env=env, database_url=cluster.url), provider, cluster)

    yield start
    for provider in providers:
        provider.stop()
    for cluster in clusters:
        cluster.release()
        shutil.rmtree(embedded.home_of(tmp_path / "database"), ignore_errors=True)
