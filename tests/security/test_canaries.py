"""Secrets stay secret: provider keys, API keys and passwords go through the running product and are found nowhere.

They are used rightly and wrongly (providers that repeat the key, bodies that do not parse, streams that break off),
then looked for: in the spool, in the database while batches wait in it and afterwards (every table, the broker's
queues, compressed columns unpacked), in what the processes wrote, in every page and answer. A marker that is no secret
must be found in each of those places, so that the search itself is tested.
"""

import base64
import json
import os
import re
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import unescape
from typing import Any, Self

import httpx
import psycopg
import pytest
import zstandard
from psycopg import sql

from tests.servers import Server, wait_until
from tests.stack import OWN_KEY, PLATFORM_KEY, Stack, call

pytestmark = pytest.mark.xdist_group("canaries")  # the story is lived through once

HELLO = [{"role": "user", "content": "Hello"}]
ZSTD = b"\x28\xb5\x2f\xfd"
HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)"')


def needles(secret: str) -> list[bytes]:
    """Return a secret as it may lie about: in clear, in hex, inside base64 whatever stands before it."""
    plain = secret.encode()
    shifted = [base64.b64encode(b"x" * before + plain)[4 if before else 0 : -4] for before in range(3)]
    return [plain, plain.hex().encode(), *shifted]


@dataclass
class Secrets:
    """Every secret of the story by name, and the marker that must be found."""

    marker: str = field(default_factory=lambda: f"marker{uuid.uuid4().hex}")
    named: dict[str, str] = field(default_factory=lambda: {"platform key": PLATFORM_KEY, "another's key": OWN_KEY})

    def new(self, name: str, form: str = "{}") -> str:
        """Make a secret of 32 digits in a form: a password must not look like the e-mail address."""
        return self.named.setdefault(name, form.format(str(uuid.uuid4().int).zfill(32)[-32:]))

    def found_in(self, data: bytes) -> set[str]:
        return {name for name, secret in self.named.items() if any(needle in data for needle in needles(secret))}


@dataclass
class Findings:
    """What was found where: secrets (none are hoped for), and whether the marker was."""

    secrets: Secrets
    hits: dict[str, set[str]] = field(default_factory=dict)
    marked: set[str] = field(default_factory=set)
    searched_bytes: int = 0

    def search(self, place: str, data: bytes, where: str = "") -> None:
        self.searched_bytes += len(data)
        if found := self.secrets.found_in(data):
            self.hits.setdefault(place, set()).update(f"{name} {where}".strip() for name in found)
        if self.secrets.marker.encode() in data:
            self.marked.add(place)

    def search_database(self, place: str) -> None:
        for where, value in every_value():
            self.search(place, value, f"in {where}")

    def search_files(self, place: str, server: Server, pattern: str) -> None:
        for path in server.data_dir.rglob(pattern):
            if path.is_file():
                self.search(place, path.read_bytes(), f"in {path.name}")


def every_value() -> Iterator[tuple[str, bytes]]:
    """Yield every row of every table of the database, and unpacked what is compressed in it."""
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        tables = connection.execute(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        for table in tables:
            rows = connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(*table)))
            for row in rows:
                yield ".".join(table), repr(row).encode()
                for value in row:
                    if isinstance(value, bytes):
                        yield ".".join(table), unpacked(value)


def unpacked(value: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(value) if value.startswith(ZSTD) else value


@contextmanager
def stopped(server: Server, name: str) -> Iterator[None]:
    """Freeze a process (and its children) for a while."""
    os.killpg(server.pid(name), signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(server.pid(name), signal.SIGCONT)


# --- The story --------------------------------------------------------------------------------------------------------


@dataclass
class Person:
    """Somebody with a browser of the simplest kind, who keeps everything that is answered."""

    stack: Stack
    secrets: Secrets
    findings: Findings
    email: str = field(default_factory=lambda: f"canary-{uuid.uuid4().hex[:12]}@example.test")
    api_key: str = ""

    def __post_init__(self) -> None:
        self.browser = httpx.Client(base_url=self.stack.base_url, follow_redirects=True, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.browser.close()

    def open(self, path: str) -> str:
        return self._keep(self.browser.get(path)).text

    def submit(self, path: str, *, to: str = "", keep: bool = True, **data: str) -> httpx.Response:
        """Send a page's form, with its hidden members, to the page or elsewhere."""
        hidden = {name: unescape(value) for name, value in HIDDEN.findall(self.open(path))}
        answer = self.browser.post(to or path, data=hidden | data)
        return self._keep(answer) if keep else answer

    def _keep(self, answer: httpx.Response) -> httpx.Response:
        for each in (*answer.history, answer):
            self.findings.search("pages", repr(each.headers).encode() + each.content, f"in {each.url.path}")
        return answer

    def call(self, body: Any, *, key: str | None = None, path: str = "/api/chat/completions", **headers: str) -> int:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = call(self.stack.base_url + path, key=key or self.api_key, body=data, headers=named)
        self.findings.search("answers", repr(answer.headers).encode() + answer.body, f"of {body!r:.80}")
        return answer.status

    def chat(self, model: str, **members: Any) -> int:
        content = f"{self.secrets.marker} in a call"
        return self.call({"model": model, "messages": [{"role": "user", "content": content}], **members})


def sign_up(one: Person) -> None:
    """Use passwords: right, wrong, in the wrong field, changed."""
    password = one.secrets.new("password", "pass-phrase-{}")
    one.submit("/accounts/signup/", email="not an address", password1=one.secrets.new("refused password", "pw{}"))
    one.submit("/accounts/signup/", email=one.email, password1=password, organization=f"Of {one.secrets.marker}")
    assert "three steps" in one.open("/platform/")
    new = one.secrets.new("new password", "another-phrase-{}")
    wrong = one.secrets.new("wrong old password", "wrong-{}")
    one.submit("/accounts/password/change/", oldpassword=wrong, password1=new, password2=new)
    one.submit("/accounts/password/change/", oldpassword=password, password1=new, password2=new)
    one.submit("/platform/account/", to="/accounts/logout/")
    one.submit("/accounts/login/", login=one.email, password=one.secrets.new("wrong password", "wrong-{}"))
    one.submit("/accounts/login/", keep=False, login=new, password=one.email)  # shows what was typed there
    one.submit("/admin/login/", to="/accounts/login/", login=one.email, password=password)
    assert "Sign in" in one.open("/platform/")
    one.submit("/accounts/login/", login=one.email, password=new)
    assert "three steps" in one.open("/platform/")


def make_api_key(one: Person) -> None:
    """Create a key; the page that shows it once is the only one that may."""
    wish = {"name": f"Key {one.secrets.marker}", "environment": "production", "expiry": "never"}
    page = "/platform/api/api-keys/"
    shown = one.submit(f"{page}new/", to=page, keep=False, **wish).text
    (one.api_key,) = set(re.findall(r"rsp_live_[0-9A-Za-z]{38}", shown))
    one.secrets.named["API key"] = one.api_key


def redeem(one: Person) -> None:
    """Add credits by a code: it opens a purse, so it is a secret too."""
    from billing import codes
    from tests.conftest import make_user

    _, code = codes.create(amount_nano=10**9, actor=make_user("operator"))
    one.secrets.named["redeem code"] = code
    assert "$1.00" in one.submit("/platform/api/credits/", to="/platform/api/credits/redeem/", code=code).text


def connect_provider(one: Person) -> str:
    """Store a provider key, after forms that were refused; replace it; test it. Return its page."""
    page = "/platform/api/integrations/"
    refused = one.secrets.new("provider key of a refused form", "sk-{}")
    form = f"{page}add/?provider=custom"
    one.submit(form, to=page, provider="custom", name="Not a Slug!", secret=refused, base_url="http://10.0.0.1/")
    first = one.secrets.new("first provider key", "sk-{}")
    own = {"provider": "custom", "name": "own", "base_url": one.stack.provider.base_url}
    shown = one.submit(form, to=page, secret=first, **own).text
    path = re.findall(rf'href="({page}cred_[^/]+/)"', shown)[0]
    assert ">Failed<" in one.submit(page, to=f"{path}test/", model="fake:status=401,leak").text
    one.submit(path, secret=one.secrets.new("provider key", "sk-{}"), base_url=one.stack.provider.base_url)
    assert ">Works<" in one.submit(page, to=f"{path}test/", model="fake:chunks=1").text
    one.submit(page, to=f"{path}test/", model="fake:status=401,leak,error=html")
    return str(path)


def make_calls(one: Person) -> None:
    """Make calls in which everything goes wrong that can bring a key into what is kept or answered."""
    assert one.chat("own/fake:chunks=2") == 200
    for error in ("openai", "flat", "detail", "html"):
        assert one.chat(f"own/fake:status=401,leak,error={error}") == 401
        assert one.chat(f"own/fake:status=401,leak,shy,error={error}") == 502
    assert one.chat("own/fake:status=500,leak", stream=True) == 500
    for script in ("chunks=9,fail=2,leak", "chunks=9,cut=2", "chunks=9,reset=2", "chunks=9,cut_raw=2"):
        assert one.chat(f"own/fake:{script}", stream=True) == 200
    assert one.chat("own/fake:drop") == 502
    assert one.chat("fake/leaking", stream=True) == 200
    assert one.chat("fake/refused-leaking") == 502
    assert one.chat("fake/broken-leaking") == 500
    abandon(one)
    carried = one.secrets.new("provider key in a body", "sk-{}")
    theirs = {"openai": {"api_key": carried}}
    assert one.chat("own/fake:chunks=1", customer_credentials=theirs) == 200
    assert one.chat("own/fake:chunks=1", respan_params={"customer_credentials": theirs}) == 200
    assert one.chat("no-such-model", customer_credentials=theirs) == 404
    in_header = json.dumps({"customer_credentials": theirs})
    body = {"model": "own/fake:chunks=1", "messages": HELLO}
    assert one.call(body, X_Data_Respan_Params=in_header) == 200
    assert one.call({"model": "own/x", "customer_credentials": theirs}) == 400
    assert one.call(b'{"model": "own/x", "api_key": "%s", ' % carried.encode()) == 400
    use_keys_wrongly(one)


def abandon(one: Person) -> None:
    """Leave in the middle of a stream."""
    body = {"model": "own/fake:chunks=400,interval=0.02", "messages": HELLO, "stream": True}
    headers = {"Authorization": f"Bearer {one.api_key}"}
    with one.browser.stream("POST", "/api/chat/completions", json=body, headers=headers) as answer:
        assert next(answer.iter_bytes()).startswith(b"data: ")


def use_keys_wrongly(one: Person) -> None:
    """Present API keys where and how they do not belong."""
    body = {"model": "sandbox/echo", "messages": HELLO}
    unknown = one.secrets.new("unknown key", "rsp_live_{}abcdef")
    assert one.call(body, key=unknown) == 401
    assert one.call(body, key=one.api_key[:-1] + ("a" if one.api_key[-1] != "a" else "b")) == 401
    assert one.call(body, x_api_key=unknown) == 400
    assert one.call(body, path=f"/api/chat/completions?key={one.api_key}") == 200
    assert one.call(body, path=f"/api/nothing/{one.api_key}") == 404
    assert one.call(body, path="/api/request-logs/list/?page=x") == 400
    one.browser.get(f"/platform/nothing/{one.api_key}/?key={one.api_key}")


def look_around(one: Person, path_of_key: str) -> None:
    """Read every page and answer that might show too much."""
    for path in ("/platform/", "/platform/api/api-keys/", "/platform/api/integrations/", path_of_key):
        one.open(path)
    for path in ("/platform/api/credits/", "/platform/logs/?range=30d", "/platform/account/", "/healthz", "/readyz"):
        one.open(path)
    headers = {"Authorization": f"Bearer {one.api_key}"}
    listed = one.browser.get("/api/request-logs/list/?page_size=100&all_envs=true", headers=headers)
    one.findings.search("answers", listed.content, "of the list")
    logs = [log["unique_id"] for log in listed.json()["results"]]
    assert len(logs) > 15
    for log in logs:
        one.open(f"/platform/logs/{log}/")
        answer = one.browser.get(f"/api/request-logs/{log}/", headers=headers)
        assert answer.status_code == 200
        one.findings.search("answers", answer.content, f"of the log {log}")


@pytest.fixture(scope="module")
def findings(stack: Stack, django_db_blocker: Any) -> Findings:
    with django_db_blocker.unblock():
        return _live_through(stack)


def _live_through(stack: Stack) -> Findings:
    found = Findings(Secrets())
    with Person(stack, found.secrets, found) as one:
        _live(one, stack, found)
    return found


def _live(one: Person, stack: Stack, found: Findings) -> None:
    from traces.models import IngestBatch

    sign_up(one)
    make_api_key(one)
    redeem(one)
    path_of_key = connect_provider(one)
    with stopped(stack.server, "worker"):
        with stopped(stack.server, "shipper"):
            make_calls(one)
            wait_until(lambda: any(is_marked(path, found) for path in spool(stack)), what="the calls in the spool")
            for path in spool(stack):
                found.search("spool", path.read_bytes(), f"in {path.name}")
        wait_until(lambda: IngestBatch.objects.filter(done_at=None).exists(), what="a batch on its way")
        wait_until(lambda: not any(is_marked(path, found) for path in spool(stack)), what="the spool to be shipped")
        found.search_database("database on the way")
    wait_until(lambda: not IngestBatch.objects.filter(done_at=None).exists(), what="the calls to be loaded")
    look_around(one, path_of_key)
    found.search_database("database")
    found.search_files("processes", stack.server, "*.log")
    found.search_files("data directory", stack.server, "*")


def spool(stack: Stack) -> list[Any]:
    return [path for path in (stack.server.data_dir / "spool").rglob("*") if path.is_file()]


def is_marked(path: Any, found: Findings) -> bool:
    try:
        return found.secrets.marker.encode() in path.read_bytes()
    except FileNotFoundError:  # carried by the shipper meanwhile
        return False


# --- What was found ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["spool", "database on the way", "database", "processes", "data directory", "pages", "answers"]
)
def test_no_secret_is_found_in(findings: Findings, place: str) -> None:
    assert findings.hits.get(place, set()) == set()


def test_the_search_finds_what_is_there(findings: Findings) -> None:
    assert findings.marked >= {"spool", "database on the way", "database", "pages", "answers"}
    assert len(findings.secrets.named) >= 12


def test_a_secret_is_found_in_any_dress() -> None:
    secrets = Secrets()
    secret = secrets.new("one", "sk-{}")
    for before in ("", "a", "ab", "abc", "Bearer "):
        text = f"{before}{secret} and more".encode()
        for dressed in (text, text.hex().encode(), base64.b64encode(text)):
            assert secrets.found_in(dressed) == {"one"}
    assert unpacked(zstandard.compress(secret.encode())) == secret.encode()
