"""One PostgreSQL for a run, one database for each xdist worker, a fixed cast of people, and servers under test.

This file runs before Django reads its settings: it puts `DATABASE_URL`, the secrets and `RESPAN_DATA_DIR` of the run
into the environment, so that this process and every server it starts agree. `DATABASE_URL` of the caller names the
server; without it an embedded one is started for the run. Tests never clean up (append-only tables refuse it): each
makes its own organizations. Neighbours: `servers.py`.
"""

import atexit
import fcntl
import inspect
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

# Fixtures that start the whole product: `stack`, `tenant`.
pytest_plugins = ["tests.stack"]

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")


def _start_postgres(folder: Path) -> str:
    from respan import embedded

    signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit(128 + number)
    )  # so that the server is stopped then too
    cluster = embedded.use(folder)
    atexit.register(shutil.rmtree, cluster.home, ignore_errors=True)
    atexit.register(cluster.release)  # the last registered runs first
    return cluster.url


def _prepare_environment() -> None:
    """Give this process the run's server, its own database and data folder, and secrets that are no secrets."""
    if "RESPAN_TEST_RUN_DIR" not in os.environ:
        run = Path(tempfile.mkdtemp(prefix="respan-tests-"))
        atexit.register(shutil.rmtree, run, ignore_errors=True)  # runs after the server has stopped
        os.environ["RESPAN_TEST_RUN_DIR"] = str(run)
        os.environ["RESPAN_TEST_SERVER_URL"] = os.environ.get("DATABASE_URL") or _start_postgres(run / "server")
    server = urlsplit(os.environ["RESPAN_TEST_SERVER_URL"])
    name = "_".join(filter(None, ["test", server.path.strip("/") or "respan", WORKER]))
    data = Path(os.environ["RESPAN_TEST_RUN_DIR"]) / (WORKER or "main")
    (data / "static").mkdir(parents=True, exist_ok=True)
    for setting in (
        "HOST",
        "PORT",
        "RESPAN_BASE_URL",
        "EMAIL_URL",
        "CELERY_BROKER_URL",
        "REDIS_URL",
        "DEBUG",
        "LOG_LEVEL",
        "LOG_JSON",
    ):
        os.environ.pop(setting, None)
    os.environ.update(
        DATABASE_URL=urlunsplit(server._replace(path=f"/{name}")),
        RESPAN_DATA_DIR=str(data),
        RESPAN_ENV_FILE=os.devnull,
        SECRET_KEY="not-a-secret-of-the-tests-" + "0123456789" * 4,
        RESPAN_KEY_PEPPER="not-a-pepper-" + "0123456789" * 3,
        RESPAN_KEYS="k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        DJANGO_SETTINGS_MODULE="respan.settings",
    )


_prepare_environment()

import django  # noqa: E402

django.setup()
from django.contrib.auth.hashers import Argon2PasswordHasher  # noqa: E402
from django.core.management import call_command, get_commands  # noqa: E402
from django.db import connections  # noqa: E402
from django.test import TransactionTestCase  # noqa: E402

import respan.celery  # noqa: E402, F401  (a task published by a test goes to our broker)

# xdist's workers inherit the environment: with this in it pytest-django would read the settings before their conftest.
del os.environ["DJANGO_SETTINGS_MODULE"]

# Django would flush every table after a transactional test; append-only tables refuse TRUNCATE, and nothing needs it.
TransactionTestCase._fixture_teardown = lambda self: None  # type: ignore[method-assign]

# Argon2 is slow on purpose: in this process it is quick, in the servers under test as it is shipped.
ARGON2 = {name: getattr(Argon2PasswordHasher, name) for name in ("time_cost", "memory_cost", "parallelism")}
Argon2PasswordHasher.time_cost, Argon2PasswordHasher.memory_cost, Argon2PasswordHasher.parallelism = 1, 8, 1


def on_server(statement: str) -> None:
    """Run a statement beside all databases (CREATE DATABASE and the like)."""
    url = urlunsplit(urlsplit(os.environ["RESPAN_TEST_SERVER_URL"])._replace(path="/postgres"))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


@pytest.fixture(scope="session")
def django_db_setup(django_test_environment: None, django_db_blocker: Any, django_db_keepdb: bool) -> Iterator[None]:
    """Make this worker's database with the tables and the catalogue a start of the product would make."""
    name = urlsplit(os.environ["DATABASE_URL"]).path.strip("/")
    with django_db_blocker.unblock():
        if django_db_keepdb:
            _fill_database()
        else:
            _make_database(name)
    yield
    with django_db_blocker.unblock():
        connections.close_all()
    if not django_db_keepdb:
        on_server(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _fill_database() -> None:
    call_command("migrate", verbosity=0, interactive=False)
    if "sync_catalog" in get_commands():
        call_command("sync_catalog", verbosity=0)
    connections.close_all()


def _make_database(name: str) -> None:
    """Make a database of that name: the first worker of a run fills its own, the others get copies of that one."""
    template = f"{name.removesuffix(f'_{WORKER}')}_template"
    on_server(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    with (Path(os.environ["RESPAN_TEST_RUN_DIR"]) / "template").open("a+") as made:
        fcntl.flock(made, fcntl.LOCK_EX)
        if os.fstat(made.fileno()).st_size:
            on_server(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
            return
        on_server(f'CREATE DATABASE "{name}"')
        _fill_database()
        if WORKER:
            on_server(f'DROP DATABASE IF EXISTS "{template}" WITH (FORCE)')
            on_server(f'CREATE DATABASE "{template}" TEMPLATE "{name}"')
            made.write(template)


def pytest_sessionfinish() -> None:
    """Drop what the workers' databases were copied from, when the last of them has ended."""
    made = Path(os.environ["RESPAN_TEST_RUN_DIR"]) / "template"
    if not WORKER and made.exists() and (template := made.read_text()):
        on_server(f'DROP DATABASE IF EXISTS "{template}" WITH (FORCE)')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests with a browser share one event loop: the browser lives as long as its loop."""
    for item in items:
        if _is_async(item) and _has_browser(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)  # before that of auto mode


def _is_async(item: Any) -> bool:
    return inspect.iscoroutinefunction(getattr(item, "obj", None))


def _has_browser(item: Any) -> bool:
    return "browser" in getattr(item, "fixturenames", ())


@pytest.fixture(autouse=True)
def _sockets_of_the_loop_are_closed(request: pytest.FixtureRequest) -> None:
    """After an async test close what its event loop opened: the database pool and the upstream sessions.

    Not after one with a browser: it opens none, all it meets is the product in processes of its own.
    """
    if _is_async(request.node) and not _has_browser(request.node):
        request.getfixturevalue("_closing_sockets")


@pytest.fixture
async def _closing_sockets() -> Any:
    yield
    for name in ("gateway.counting", "respan.outbound", "respan.pool", "respan.redis"):
        if name in sys.modules:
            await sys.modules[name].close()


# --- The cast ---------------------------------------------------------------------------------------------------------

PASSWORD = "correct horse battery"


@cache
def _password_digest() -> str:
    from django.contrib.auth.hashers import make_password

    return make_password(PASSWORD)


def make_user(name: str) -> Any:
    """Create a user with a fresh e-mail address and the cast's password."""
    from accounts.models import User

    return User.objects.create(
        email=f"{name}-{uuid.uuid4().hex[:12]}@example.test", name=name.title(), password=_password_digest()
    )


def make_organization(name: str, *, owner: Any = None, **fields: Any) -> Any:
    """Create an organization the way a sign-up does."""
    from accounts.signup import create_organization

    return create_organization(owner=owner or make_user("owner"), name=name, **fields)


@pytest.fixture
def cast(db: None) -> SimpleNamespace:
    """Owner, admin and member of `cast.organization`; the outsider, who owns `cast.other_organization`."""
    from accounts.models import Membership, Role

    people = SimpleNamespace(**{name: make_user(name) for name in ("owner", "admin", "member", "outsider")})
    people.password = PASSWORD
    people.organization = make_organization("Acme", owner=people.owner)
    people.other_organization = make_organization("Initech", owner=people.outsider)
    for name in ("admin", "member"):
        Membership.objects.create(organization=people.organization, user=getattr(people, name), role=Role(name))
    return people


@pytest.fixture
def organization(cast: SimpleNamespace) -> Any:
    return cast.organization


@pytest.fixture
def other_organization(cast: SimpleNamespace) -> Any:
    return cast.other_organization


@pytest.fixture
def api_key(cast: SimpleNamespace) -> str:
    """A valid production API key of `cast.organization` (the key itself)."""
    from accounts import keys

    issued = keys.issue(
        organization=cast.organization, name="Test key", environment="production", created_by=cast.owner
    )
    return issued.secret


# --- Servers under test -----------------------------------------------------------------------------------------------


@pytest.fixture
def running(django_db_setup: None, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start servers on this worker's database: `running(shipper=True, worker=True, env={...}) -> servers.Server`."""
    from tests.servers import Server

    started: list[Server] = []

    def start(**options: Any) -> Server:
        server = Server(data_dir=tmp_path / f"server{len(started)}", **options)
        started.append(server)
        return server.start()

    yield start
    for server in reversed(started):
        server.stop()


@pytest.fixture(scope="session")
def server(stack: Any) -> Any:
    """Web, shipper and worker on this worker's database, started once for all tests that need nothing special."""
    return stack.server


@pytest.fixture
def installation(django_db_setup: None, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start whole installations with `manage.py up`: `installation(env={...}) -> servers.Installation`."""
    from tests.servers import Installation

    started: list[Installation] = []

    def start(**options: Any) -> Installation:
        options.setdefault("data_dir", tmp_path / f"installation{len(started)}")
        started.append(Installation(**options))
        return started[-1].start()

    yield start
    for each in reversed(started):
        each.discard()
