"""What the drills share: a whole installation with the fake provider's models, a tenant in it, and its books."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    cluster: Cluster
    organization_id: int = 0
    api_key: str = ""
    granted_nano: int = 0
    _clerk: "subprocess.Popen[str] | None" = None

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
            what = "every call to be traced and every hold to be resolved"
            wait_until(quiet, timeout_s=timeout_s, every_s=0.1, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}: {books}, {spans} spans wanted") from error
        return books

    def _seed(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Ask the one process that seeds this site and reads its books."""
        if self._clerk is None:
            self._clerk = subprocess.Popen(
                [sys.executable, "-m", "tests.seed"],
                cwd=REPOSITORY, env=self._env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        assert self._clerk.stdin is not None
        assert self._clerk.stdout is not None
        self._clerk.stdin.write(json.dumps(wanted) + "\n")
        self._clerk.stdin.flush()
        line = self._clerk.stdout.readline()
        assert line, f"tests.seed ended with {self._clerk.wait()}, its error is above"
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """Let the process that seeds go."""
        if self._clerk is not None:
            self._clerk.communicate(timeout=30)

    @property
    def _env(self) -> dict[str, str]:
        return self.installation.env | {"DATABASE_URL": self.installation.database_url}

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command], cwd=REPOSITORY, env=self._env, capture_output=True, text=True, timeout=120
        )


@contextmanager
def running_site(folder: Path, *, web_processes: int = 1, settings: Mapping[str, str] | None = None) -> Iterator[Site]:
    """Run an installation with `manage.py up` and its shipped defaults for as long as the block lasts.

    Its database is a server of the drill's own, which `up` does not start again when the drill stops it.
    """
    provider = Provider().start()
    env = stack.environment(folder, provider) | dict(settings or {})
    if web_processes > 1:
        env["RESPAN_WEB_PROCESSES"] = str(web_processes)
    cluster = embedded.use(folder / "database")
    try:
        with Installation(data_dir=folder / "data", env=env, database_url=cluster.url) as installation:
            site = Site(installation, provider, cluster)
            try:
                yield site
            finally:
                site.close()
    finally:
        provider.stop()
        cluster.release()
        shutil.rmtree(embedded.home_of(folder / "database"), ignore_errors=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One installation for the drills of a file, each with a customer of its own."""
    with running_site(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture(scope="module")
def site_of_two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The same with two web processes on one port."""
    with running_site(tmp_path_factory.mktemp("two"), web_processes=2) as running:
        yield running
