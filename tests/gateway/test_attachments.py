"""Files behind URLs, over real HTTP from a server of this host: fetched within limits, or refused in plain words."""

import base64
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from types import SimpleNamespace

import pytest

from gateway import attachments
from gateway.attachments import AttachmentUnavailable
from gateway.dialects import blocks
from respan import outbound

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 50
JPEG = b"\xff\xd8\xff\xe0" + b"\0" * 50
PDF = b"%PDF-1.7\n" + b"\0" * 50
FILES = {"/a.png": PNG, "/b.jpg": JPEG, "/c.pdf": PDF, "/page": b"<html>hello</html>", "/short": b""}


class _Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, dict[str, str]]] = []  # noqa: RUF012  (shared on purpose)
    awake = Event()

    def do_GET(self):
        self.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        path, _, argument = self.path.partition("?")
        if path == "/hop":
            hops = int(argument)
            self.reply(302, b"", location=f"/hop?{hops - 1}" if hops else "/a.png", set_cookie="session=1")
        elif path == "/to":
            self.reply(302, b"", location=argument)
        elif path == "/large":
            self.reply(200, b"", content_length=str(attachments.MAX_FILE_BYTES + 1))
        elif path == "/endless":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            try:
                while True:
                    self.wfile.write(PNG * 10_000)
            except OSError:
                self.close_connection = True
        elif path == "/silent":
            self.awake.wait(5)
            self.close_connection = True
        elif path in FILES:
            self.reply(200, FILES[path])
        else:
            self.reply(404, b"nothing")

    def reply(self, status, body, **headers):
        self.send_response(status)
        for name, value in {"content_length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = headers.get("content_length") is not None

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    thread = Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _nothing_seen():
    _Server.seen.clear()


def request_with(*content):
    messages = [blocks.Message("user", [blocks.Text("look"), *content])]
    return blocks.Request(dialect="openai_chat", model="m", messages=messages)


async def inline(request, **options):
    options.setdefault("transport", outbound.transport(outbound.Policy(loopback=True)))
    await attachments.inline(request, **options)
    return request.messages[0].blocks[1:]


async def test_an_image_becomes_its_bytes_and_keeps_what_was_said_of_it(server):
    [image] = await inline(request_with(blocks.Image(url=f"{server}/a.png", detail="low", cache="5m")))
    assert image == blocks.Image(media_type="image/png", data=base64.b64encode(PNG).decode(), detail="low", cache="5m")


async def test_the_first_bytes_decide_what_a_file_is(server):
    found = await inline(
        request_with(
            blocks.Image(url=f"{server}/c.pdf"),
            blocks.Document(url=f"{server}/c.pdf", name="c", citations=True),
            blocks.Document(url=f"{server}/b.jpg"),
        )
    )
    data = base64.b64encode(PDF).decode()
    assert found == [
        blocks.Document(data=data),
        blocks.Document(data=data, name="c", citations=True),
        blocks.Image(media_type="image/jpeg", data=base64.b64encode(JPEG).decode()),
    ]
    assert len(_Server.seen) == 2  # the same URL is fetched once


async def test_images_of_tool_results_are_fetched_too(server):
    [result] = await inline(request_with(blocks.ToolResult(id="1", content=[blocks.Image(url=f"{server}/a.png")])))
    assert result.content[0].media_type == "image/png"


async def test_what_has_its_bytes_or_no_http_url_is_left_alone(server):
    given = [blocks.Image(media_type="image/png", data="AAAA"), blocks.Document(url="gs://bucket/a.pdf"),
             blocks.Image(file_id="file-1")]  # fmt: skip
    assert await inline(request_with(*given)) == given
    assert _Server.seen == []


async def test_redirects_are_followed_three_times_with_no_cookie_and_no_key(server):
    [image] = await inline(request_with(blocks.Image(url=f"{server}/hop?2")))
    assert image.media_type == "image/png"
    assert [path for path, _ in _Server.seen] == ["/hop?2", "/hop?1", "/hop?0", "/a.png"]
    sent = set().union(*(headers for _, headers in _Server.seen))
    assert sent == {"host", "user-agent", "accept", "accept-encoding"}


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/hop?3", "redirected more than 3 times"),
        ("/missing", "answered 404"),
        ("/page", "neither a PNG"),
        ("/short", "neither a PNG"),
        ("/large", "larger than 20 MB"),
        ("/endless", "larger than 20 MB"),
        ("/to?ftp://127.0.0.1/a.png", "not an https URL"),
        ("/to?http://user:secret@127.0.0.1/a.png", "user name or a password"),
        ("/to?http://10.0.0.1/a.png", "not a public address"),
        ("/to?http://169.254.169.254/latest/meta-data", "not a public address"),
    ],
)
async def test_what_cannot_be_used_is_refused_in_plain_words(server, path, reason):
    with pytest.raises(AttachmentUnavailable) as refused:
        await inline(request_with(blocks.Image(url=server + path)))
    assert reason in refused.value.message
    assert (refused.value.status, refused.value.message.startswith(server)) == (400, True)


@pytest.mark.parametrize(
    "url",
    [
        "https://user@example.com/a.png",
        "https:///a.png",
        "http://[::1/a.png",
        "https://exa mple.com/",
        "http://localhost/a",
    ],
)
async def test_a_url_nobody_should_fetch_is_refused_without_a_connection(url):
    with pytest.raises(AttachmentUnavailable):
        await inline(request_with(blocks.Image(url=url)), transport=outbound.transport(outbound.PUBLIC))


async def test_this_host_is_not_public(server):
    with pytest.raises(AttachmentUnavailable, match="not a public address"):
        await inline(request_with(blocks.Image(url=f"{server}/a.png")), transport=outbound.transport(outbound.PUBLIC))
    assert _Server.seen == []


async def test_the_error_names_the_member_of_the_clients_own_request(server):
    url = f"{server}/missing"
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    asked = SimpleNamespace(members={"messages": json.dumps(messages).encode()})
    with pytest.raises(AttachmentUnavailable) as refused:
        await inline(request_with(blocks.Image(url=url)), asked=asked)
    assert refused.value.param == "messages[0].content[0].image_url.url"


async def test_files_have_a_limit_together(server, monkeypatch):
    monkeypatch.setattr(attachments, "MAX_BYTES", 100)
    images = [blocks.Image(url=f"{server}/{name}") for name in ("a.png", "b.jpg")]
    with pytest.raises(AttachmentUnavailable, match="together"):
        await inline(request_with(*images))


async def test_files_have_a_time_limit_together(server, monkeypatch):
    monkeypatch.setattr(attachments, "TOTAL_S", 0.2)
    with pytest.raises(AttachmentUnavailable, match=r"in time|longer than"):
        await inline(request_with(blocks.Image(url=f"{server}/silent")))
    _Server.awake.set()


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (PNG, "image/png"),
        (JPEG, "image/jpeg"),
        (b"GIF89a...", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"\r\n%PDF-1.4", "application/pdf"),
        (b"<svg/>", None),
        (b"", None),
    ],
)
def test_files_are_known_by_their_first_bytes(data, media_type):
    assert attachments.sniffed(data) == media_type
