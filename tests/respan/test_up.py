"""`manage.py up` as a newcomer meets it: one command runs everything, what dies comes back, Ctrl-C leaves nothing."""

import http.client
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import psycopg
import pytest

from tests.conftest import on_server
from tests.servers import REPOSITORY, Installation, is_alive, status, wait_until

# One worker runs them all: they share an installation.
pytestmark = pytest.mark.xdist_group("up")
SECRETS = {name: os.environ[name] for name in ("SECRET_KEY", "RESPAN_KEY_PEPPER", "RESPAN_KEYS")}
ALL = {"up", "web", "shipper", "worker", "beat", "database"}


def _post(installation: Installation, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(urlsplit(installation.base_url).netloc, timeout=20)
    headers = {"Authorization": f"Bearer {installation.facts['api_key']}", "Content-Type": "application/json"}
    connection.request("POST", path, body=json.dumps(body), headers=headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def _call(installation: Installation, model: str = "sandbox/echo") -> tuple[int, dict[str, Any]]:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}
    return _post(installation, "/api/chat/completions", body)


def _logged(installation: Installation) -> int:
    code, answer = _post(installation, "/api/request-logs/list/", {})
    assert code == 200
    return len(answer["results"])


@pytest.fixture(scope="module")
def _installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with Installation(data_dir=tmp_path_factory.mktemp("installation") / "data") as started:
        yield started


@pytest.fixture
def shared(_installation: Installation) -> Installation:
    """One installation for the tests that need nothing special; it runs, whatever the test before left."""
    return _installation if _installation.process is not None else _installation.start()


def test_first_start_serves_a_call_with_what_it_printed(shared: Installation) -> None:
    assert shared.pids.keys() == ALL
    assert shared.facts.keys() == {"base_url", "email", "password", "api_key"}
    assert shared.facts["base_url"] == shared.base_url
    assert stat.S_IMODE((shared.data_dir / "first-run.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((shared.data_dir / ".env").stat().st_mode) == 0o600
    wait_until(lambda: "Ctrl-C stops it" in shared.log())
    for fact in shared.facts.values():
        assert fact in shared.log()
    code, answer = _call(shared)
    assert code == 200
    assert "Hello" in answer["choices"][0]["message"]["content"]
    wait_until(lambda: _logged(shared), what="the call in the logs")


def test_printed_curl_works_as_it_stands(shared: Installation) -> None:
    printed = re.search(r"^  (curl .*\\\n.*\\\n.*)$", shared.log(), re.MULTILINE)
    assert printed is not None
    done = subprocess.run(["sh", "-c", printed[1]], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"]


def test_demo_owner_is_the_operator_with_five_dollars(shared: Installation) -> None:
    with psycopg.connect(shared.database_url) as connection:
        operator = connection.execute(
            "SELECT u.is_superuser, u.is_staff, m.role, o.is_demo, w.posted"
            " FROM accounts_user u JOIN accounts_membership m ON m.user_id = u.id"
            " JOIN accounts_organization o ON o.id = m.organization_id"
            " JOIN billing_wallet w ON w.organization_id = o.id WHERE u.email = %s",
            [shared.facts["email"]],
        ).fetchall()
    assert operator == [(True, True, "owner", True, 5_000_000_000)]


def test_second_start_names_the_running_one_and_refuses(shared: Installation) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "up"], cwd=REPOSITORY, env=shared.env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert f"already running at {shared.base_url}" in done.stderr
    assert status(shared.base_url, "/readyz") == 200


def test_other_commands_use_the_running_database(shared: Installation) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "migrate", "--check"],
        cwd=REPOSITORY, env=shared.env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert is_alive(shared.pids["database"])


def test_taken_port_is_named(shared: Installation, tmp_path: Path) -> None:
    other = Installation(data_dir=tmp_path / "data", database_url=shared.database_url, env={"PORT": str(shared.port)})
    with pytest.raises(AssertionError, match=f"Cannot listen on 127.0.0.1:{shared.port}"):
        other.start()
    other.discard()


@pytest.mark.parametrize("name", ["web", "shipper", "worker", "beat", "database"])
def test_killed_process_comes_back_and_calls_go_on(shared: Installation, name: str) -> None:
    before = _logged(shared)
    old = shared.kill(name)
    new = shared.wait_restarted(name, old)
    assert not is_alive(old)
    assert is_alive(new)
    wait_until(lambda: status(shared.base_url, "/readyz") == 200, what="readiness")
    wait_until(lambda: _call(shared)[0] == 200, what="a call that is answered")
    wait_until(lambda: _logged(shared) > before, what="a call in the logs")


def test_ctrl_c_leaves_nothing_and_second_start_keeps_everything(shared: Installation) -> None:
    facts, calls = shared.facts, _logged(shared)
    pids = shared.pids
    assert shared.stop() == 0
    assert not [name for name, pid in pids.items() if is_alive(pid)]
    assert not (shared.data_dir / "processes.json").exists()
    shared.start()
    print(f"second start: {shared.seconds_to_ready:.2f} s")
    assert shared.facts == facts
    assert _logged(shared) == calls
    assert shared.log().count(facts["password"]) == 1  # printed by the first start only
    pids = shared.pids
    assert shared.stop(number=signal.SIGTERM) == 0
    assert not [name for name, pid in pids.items() if is_alive(pid)]


def test_killed_supervisor_takes_its_processes_along_and_next_start_recovers(shared: Installation) -> None:
    pids = shared.pids
    children = _descendants(pids["up"])
    assert shared.process is not None
    shared.process.kill()
    shared.process.wait()
    shared.process = None
    left = children - _descendants(pids["database"]) - {pids["database"]}
    wait_until(lambda: not [pid for pid in left if is_alive(pid)], timeout_s=25, what="the children to die")
    shared.start()
    assert shared.pids["database"] == pids["database"]  # adopted
    assert _call(shared)[0] == 200


def _descendants(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


# --- Not on loopback --------------------------------------------------------------------------------------------------


@pytest.fixture
def public(installation: Callable[..., Installation]) -> Installation:
    """An installation that others can reach, under a name of its own."""
    env = {"HOST": "0.0.0.0", "RESPAN_ALLOW_HTTP": "true", "ALLOWED_HOSTS": "127.0.0.1"}
    server = urlsplit(os.environ["DATABASE_URL"])
    name = f"{server.path.strip('/')}_public"
    on_server(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    on_server(f'CREATE DATABASE "{name}"')
    env |= {"RESPAN_BASE_URL": "http://respan.example.com", **SECRETS}
    return installation(env=env, database_url=urlunsplit(server._replace(path=f"/{name}")))


def test_outside_loopback_the_first_operator_gets_a_link_and_there_is_no_demo(public: Installation) -> None:
    link = wait_until(lambda: re.search(r"http://respan\.example\.com(/setup/\S+/)", public.log()))[1]
    assert public.facts == {"base_url": "http://respan.example.com"}
    with psycopg.connect(public.database_url) as connection:
        assert connection.execute("SELECT count(*) FROM accounts_organization").fetchone() == (0,)
    assert status(public.base_url, "/setup/forged/") == 403
    browser = _Browser(public.base_url)
    assert browser.get(link) == 200
    refused = {"email": "first@example.com", "password": "short", "organization": "Acme"}
    assert browser.post(link, refused) == 422
    assert browser.post(link, refused | {"password": "a long enough password"}) == 302
    assert browser.get("/platform/") == 200
    assert _Browser(public.base_url).get(link) == 403  # only while there is no operator
    with psycopg.connect(public.database_url) as connection:
        operators = connection.execute("SELECT email FROM accounts_user WHERE is_superuser").fetchall()
    assert operators == [("first@example.com",)]


class _Browser:
    """A client with cookies, no more."""

    def __init__(self, base_url: str) -> None:
        self.netloc = urlsplit(base_url).netloc
        self.cookies: dict[str, str] = {}
        self.page = ""

    def get(self, path: str) -> int:
        return self._request("GET", path)

    def post(self, path: str, form: dict[str, str]) -> int:
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', self.page)
        assert token is not None
        return self._request("POST", path, urlencode(form | {"csrfmiddlewaretoken": token[1]}))

    def _request(self, method: str, path: str, body: str | None = None) -> int:
        connection = http.client.HTTPConnection(self.netloc, timeout=20)
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        if body is not None:
            headers |= {"Content-Type": "application/x-www-form-urlencoded", "Origin": "http://respan.example.com"}
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        self.page = response.read().decode()
        for line in response.headers.get_all("Set-Cookie") or []:
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
        connection.close()
        return response.status


def test_unsafe_configuration_does_not_start(installation: Callable[..., Installation], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="RESPAN_BASE_URL is plain http on a public name"):
        installation(
            env={"HOST": "0.0.0.0", "RESPAN_BASE_URL": "http://respan.example.com", **SECRETS},
            database_url=os.environ["DATABASE_URL"],
        )
    assert not (tmp_path / "installation0" / "first-run.json").exists()


def test_missing_secrets_are_not_made_up_for_a_database_that_others_share(
    installation: Callable[..., Installation], tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="SECRET_KEY is missing"):
        installation(env={"HOST": "0.0.0.0"}, database_url=os.environ["DATABASE_URL"])
    assert not (tmp_path / "installation0" / ".env").exists()


def test_two_web_processes_serve_one_port(installation: Callable[..., Installation]) -> None:
    two = installation(env={"RESPAN_WEB_PROCESSES": "2"}, database_url=os.environ["DATABASE_URL"])
    assert {"web-1", "web-2"} <= two.pids.keys()
    old = two.kill("web-1")
    assert status(two.base_url, "/healthz") == 200
    two.wait_restarted("web-1", old)
