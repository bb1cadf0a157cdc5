"""Promises of `respan.outbound`: where it may connect to, what each failure is called, and that nothing leaks."""

import asyncio
import contextlib
import datetime
import ipaddress
import json
import socket
import ssl
import time

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from django.conf import settings as django_settings

from respan import outbound
from respan.outbound import AddressRefused, Dropped, ForbiddenAddress, Policy, check_url
from tests.provider import Provider

LOOPBACK = Policy(loopback=True)
TIMES = {"connect": 2.0, "first_byte": 2.0, "read": 2.0, "total": 5.0}


@pytest.fixture(scope="module")
def provider_server():
    server = Provider().start()
    yield server
    server.stop()


@pytest.fixture
def provider(provider_server):
    provider_server.requests.clear()
    return provider_server


def call(url, script="", *, stream=False, times=None, body=None, headers=None):
    content = body if body is not None else json.dumps({"model": f"fake:{script}", "stream": stream, "messages": []})
    return httpx.Request(
        "POST",
        f"{url}/chat/completions",
        content=content,
        headers={"content-type": "application/json", **(headers or {})},
        extensions={"timeout": TIMES | (times or {})},
    )


async def answer(request, policy=LOOPBACK):
    """Send a request and read the whole answer."""
    response = await outbound.transport(policy).handle_async_request(request)
    try:
        return response, b"".join([block async for block in response.stream])
    finally:
        await response.aclose()


def open_places():
    return outbound._here().places._value


def pool_of(policy=LOOPBACK):
    return outbound._here().session(outbound._effective(policy)).connector


@contextlib.asynccontextmanager
async def listening(handle, **options):
    server = await asyncio.start_server(handle, "127.0.0.1", 0, **options)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


# --- answers --------------------------------------------------------------------------------------------------------


async def test_an_answer_comes_back_with_status_headers_and_body(provider):
    response, body = await answer(call(provider.base_url))

    assert response.status_code == 200
    assert response.headers["x-request-id"] == "req_1"
    assert json.loads(body)["choices"][0]["message"]["content"].startswith("word0 ")


async def test_a_stream_comes_in_blocks_while_it_is_written(provider):
    transport = outbound.transport(LOOPBACK)
    response = await transport.handle_async_request(call(provider.base_url, "chunks=5,interval=0.05", stream=True))
    arrivals = [time.monotonic() async for _ in response.stream]

    assert len(arrivals) >= 5
    assert arrivals[-1] - arrivals[0] > 0.15


async def test_an_error_status_is_an_answer_and_no_exception(provider):
    response, body = await answer(call(provider.base_url, "status=429,retry_after=3"))

    assert (response.status_code, response.headers["retry-after"]) == (429, "3")
    assert json.loads(body)["error"]["message"] == "scripted 429"


async def test_the_request_arrives_as_it_was_given_and_asks_for_no_compression(provider):
    body = b'{"model": "fake", "messages": [] }'
    headers = {"authorization": "Bearer secret", "accept-encoding": "gzip, br"}
    await answer(call(provider.base_url, body=body, headers=headers))

    got = provider.last
    assert got.body == body
    assert got.headers["authorization"] == "Bearer secret"
    assert got.headers["accept-encoding"] == "identity"
    assert got.headers["host"] == provider.address
    assert set(got.headers) <= {"authorization", "accept-encoding", "host", "content-type", "content-length"}


async def test_an_escaped_path_is_not_escaped_again(provider):
    request = httpx.Request("GET", f"http://{provider.address}/v1/a%3Ab%2Fc?x=%2F", extensions={"timeout": TIMES})
    await answer(request)

    assert provider.last.path == "/v1/a%3Ab%2Fc?x=%2F"


async def test_a_body_of_megabytes_arrives_whole(provider):
    body = json.dumps({"model": "fake", "messages": [{"role": "user", "content": "x" * 5_000_000}]}).encode()
    response, _ = await answer(call(provider.base_url, body=body))

    assert response.status_code == 200
    assert provider.last.body == body


async def test_cookies_of_an_answer_are_not_sent_with_the_next_call(provider):
    await answer(call(provider.base_url, "cookie"))
    await answer(call(provider.base_url))

    assert "cookie" not in provider.last.headers


async def test_a_redirect_is_an_answer_and_is_not_followed(provider):
    response, _ = await answer(call(provider.base_url, "redirect"))

    assert response.status_code == 307
    assert len(provider.requests) == 1


async def test_proxy_variables_are_ignored(provider, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    response, _ = await answer(call(provider.base_url))

    assert response.status_code == 200


async def test_headers_up_to_64_kib_are_read(provider):
    response, _ = await answer(call(provider.base_url, "header=60000"))

    assert len(response.headers["x-large"]) == 60_000


# --- failures -------------------------------------------------------------------------------------------------------


async def failure(request, policy=LOOPBACK):
    with pytest.raises(httpx.TransportError) as caught:
        await answer(request, policy)
    assert open_places() == django_settings.RESPAN_UPSTREAM_MAX_CONCURRENCY
    return caught.value


async def test_a_refused_connection_is_a_connect_error():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        error = await failure(call(f"http://127.0.0.1:{free.getsockname()[1]}"))

    assert type(error) is httpx.ConnectError


async def test_an_unknown_name_is_a_connect_error():
    error = await failure(call("https://no-such-host.invalid"))

    assert type(error) is httpx.ConnectError


async def test_a_handshake_that_hangs_is_a_connect_timeout():
    async def silent(reader, writer):
        await reader.read()
        writer.close()

    async with listening(silent) as port:
        begun = time.monotonic()
        error = await failure(call(f"https://127.0.0.1:{port}", times={"connect": 0.2}))

    assert type(error) is httpx.ConnectTimeout
    assert time.monotonic() - begun < 4


def self_signed(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


async def test_a_certificate_nobody_vouches_for_is_a_connect_error_and_nothing_is_sent(tmp_path):
    seen = []

    async def handle(reader, writer):
        with contextlib.suppress(OSError):
            seen.append(await reader.read(1))
        writer.close()

    async with listening(handle, ssl=self_signed(tmp_path)) as port:
        error = await failure(call(f"https://127.0.0.1:{port}"))

    assert type(error) is httpx.ConnectError
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)
    assert b"".join(seen) == b""


@pytest.mark.parametrize("script", ["silence", "first=30"])
async def test_no_head_in_time_is_a_read_timeout(provider, script):
    error = await failure(call(provider.base_url, script, times={"first_byte": 0.15}))

    assert type(error) is httpx.ReadTimeout


async def test_a_head_without_a_body_in_time_is_a_read_timeout(provider):
    error = await failure(call(provider.base_url, "think=30", times={"first_byte": 0.15, "read": 20}))

    assert type(error) is httpx.ReadTimeout


async def test_silence_in_the_middle_of_a_stream_is_a_read_timeout(provider):
    request = call(provider.base_url, "chunks=9,stall=3", stream=True, times={"first_byte": 20, "read": 0.15})
    error = await failure(request)

    assert type(error) is httpx.ReadTimeout


async def test_a_stream_that_never_ends_is_cut_by_the_total(provider):
    request = call(provider.base_url, "chunks=1000,interval=0.02", stream=True, times={"total": 0.3})
    begun = time.monotonic()
    error = await failure(request)

    assert type(error) is httpx.ReadTimeout
    assert 0.2 < time.monotonic() - begun < 10  # the stream would last 20 s
    assert await provider.settled(lambda: provider.last.gone_at is not None)


async def test_the_total_also_counts_before_the_head(provider):
    error = await failure(call(provider.base_url, "silence", times={"first_byte": None, "total": 0.2}))

    assert type(error) is httpx.ReadTimeout


async def test_hanging_up_on_a_new_connection_without_an_answer_is_dropped_and_not_retried(provider):
    error = await failure(call(provider.base_url, "drop,close"))

    assert type(error) is Dropped
    assert len(provider.requests) == 1


async def test_a_reset_after_the_request_is_a_read_error(provider):
    error = await failure(call(provider.base_url, "first=0.05,reset=before"))

    assert type(error) in (httpx.ReadError, Dropped)


async def test_a_reset_after_the_head_is_dropped(provider):
    error = await failure(call(provider.base_url, "reset=head"))

    assert type(error) is Dropped


async def test_a_stream_reset_in_the_middle_is_dropped(provider):
    error = await failure(call(provider.base_url, "chunks=9,reset=3", stream=True))

    assert type(error) is Dropped


async def test_an_answer_that_is_no_http_is_a_protocol_error(provider):
    error = await failure(call(provider.base_url, "junk"))

    assert type(error) is httpx.RemoteProtocolError


async def test_an_answer_compressed_without_being_asked_is_a_protocol_error(provider):
    error = await failure(call(provider.base_url, "gzip"))

    assert type(error) is httpx.RemoteProtocolError


async def test_a_line_break_in_a_header_is_refused_before_anything_is_sent(provider):
    error = await failure(call(provider.base_url, headers={"x-note": "a\r\nx-injected: b"}))

    assert type(error) is httpx.LocalProtocolError
    assert provider.requests == []


# --- connections ----------------------------------------------------------------------------------------------------


async def test_a_connection_is_used_again_when_the_body_was_read(provider):
    before = provider.connections
    for _ in range(5):
        await answer(call(provider.base_url))

    assert provider.connections == before + 1


async def test_a_used_connection_that_was_dropped_meanwhile_is_replaced_once(provider):
    """The provider closes idle connections just when the next call is on its way."""
    for pause in (0.0195, 0.02, 0.0205, 0.02, 0.0195, 0.0202, 0.0198, 0.02, 0.0201, 0.0199):
        await answer(call(provider.base_url, "idle=0.02"))
        await asyncio.sleep(pause)
        response, _ = await answer(call(provider.base_url))
        assert response.status_code == 200


async def test_a_call_whose_used_connection_dies_unanswered_is_sent_again_once_and_on_a_new_one(provider):
    await answer(call(provider.base_url))
    before = provider.connections
    error = await failure(call(provider.base_url, "drop,close"))

    assert type(error) is Dropped
    assert len(provider.requests) == 3  # the first call, the one that was dropped, its one repetition
    assert provider.connections == before + 1


async def test_closing_an_answer_early_cancels_the_provider_within_a_second(provider):
    request = call(provider.base_url, "chunks=1000,interval=0.02", stream=True)
    response = await outbound.transport(LOOPBACK).handle_async_request(request)
    async for _ in response.stream:
        break
    closed_at = time.monotonic()
    await response.aclose()
    await response.aclose()

    assert await provider.settled(lambda: provider.last.gone_at is not None)
    assert provider.last.gone_at - closed_at < 1
    assert [block async for block in response.stream] == []


async def test_cancelling_a_call_before_its_head_cancels_the_provider_within_a_second(provider):
    task = asyncio.create_task(answer(call(provider.base_url, "silence")))
    assert await provider.settled(lambda: provider.requests)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await provider.settled(lambda: provider.last.gone_at is not None, 1)


async def test_cancelled_and_aborted_calls_leave_no_task_no_place_and_no_connection(provider):
    await answer(call(provider.base_url))
    tasks, places = len(asyncio.all_tasks()), open_places()

    async def abort(number):
        if number % 2:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.03):
                    await answer(call(provider.base_url, "silence"))
        else:
            request = call(provider.base_url, "chunks=100,interval=0.01", stream=True)
            response = await outbound.transport(LOOPBACK).handle_async_request(request)
            async for _ in response.stream:
                break
            await response.aclose()

    for _ in range(4):
        await asyncio.gather(*(abort(number) for number in range(50)))
    await asyncio.sleep(0.05)

    assert (len(asyncio.all_tasks()), open_places()) == (tasks, places)
    assert not pool_of()._acquired
    assert (await answer(call(provider.base_url)))[0].status_code == 200


async def test_an_answer_nobody_closed_gives_its_place_back_when_it_is_forgotten(provider):
    places = open_places()
    request = call(provider.base_url, "chunks=100,interval=0.01", stream=True)
    response = await outbound.transport(LOOPBACK).handle_async_request(request)
    assert open_places() == places - 1
    del response

    assert open_places() == places
    assert await provider.settled(lambda: provider.last.gone_at is not None)


async def test_calls_above_the_cap_wait_and_are_then_refused(provider, settings):
    settings.RESPAN_UPSTREAM_MAX_CONCURRENCY = 1
    transport = outbound.transport(LOOPBACK)
    held = await transport.handle_async_request(call(provider.base_url, "chunks=5,interval=0.01", stream=True))
    waiting = asyncio.create_task(answer(call(provider.base_url)))
    await asyncio.sleep(0.05)
    assert not waiting.done()

    await held.aclose()
    assert (await waiting)[0].status_code == 200

    held = await transport.handle_async_request(call(provider.base_url, "silence-not", stream=True))
    with pytest.raises(httpx.PoolTimeout):
        await answer(call(provider.base_url))
    await held.aclose()


async def test_a_client_that_reads_slowly_stops_the_reading_from_the_provider(provider):
    request = call(provider.base_url, "huge=30000000", stream=True)
    response = await outbound.transport(LOOPBACK).handle_async_request(request)
    stream = aiter(response.stream)
    first = await anext(stream)
    await asyncio.sleep(0.2)
    waiting = response.stream._content._size

    assert waiting <= 1024 * 1024
    size = len(first) + sum([len(block) async for block in stream])
    assert size > 30_000_000


async def test_a_policy_never_uses_a_connection_of_another_one(provider):
    await answer(call(provider.base_url), LOOPBACK)
    before = provider.connections
    await answer(call(provider.base_url), Policy(allow=frozenset({provider.address})))

    assert provider.connections == before + 1
    with pytest.raises(AddressRefused):
        await answer(call(provider.base_url), outbound.PUBLIC)


async def test_after_close_the_next_call_opens_new_sessions(provider):
    await answer(call(provider.base_url))
    await outbound.close()
    await outbound.close()

    assert (await answer(call(provider.base_url)))[0].status_code == 200


# --- where it may connect to ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ["127.0.0.1:{port}", "localhost:{port}", " LOCALHOST:{port} "])
async def test_an_allowed_host_and_port_is_reached_by_that_name_only(provider, settings, entry):
    settings.RESPAN_UPSTREAM_ALLOW = [entry.format(port=provider.port)]
    host = "localhost" if "local" in entry.lower() else "127.0.0.1"
    policy = outbound.PUBLIC

    response, _ = await answer(call(f"http://{host}:{provider.port}/v1"), policy)
    assert response.status_code == 200
    with pytest.raises(AddressRefused):
        await answer(call(f"http://127.0.0.1:{provider.port + 1}/v1"), policy)


async def test_a_name_that_resolves_to_a_private_address_is_refused_where_it_is_dialled(provider, settings):
    """`localhost` stands for any name whose owner points it at us; the check of names was passed by hand."""
    dial = outbound._Dial(named=False)
    outbound._dial.set(dial)
    make = outbound._socket_factory(outbound._effective(outbound.PUBLIC))
    with pytest.raises(OSError, match="not a public address"):
        make((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", provider.port)))

    assert dial.refused


async def test_a_public_looking_name_of_a_private_address_is_refused_and_nothing_is_sent(provider):
    class Lying(outbound.AbstractResolver):
        async def resolve(self, host, port=0, family=socket.AF_INET):
            found = {"hostname": host, "host": "127.0.0.1", "port": port, "family": family, "proto": 0, "flags": 0}
            return [found, found | {"host": "10.0.0.1"}]

        async def close(self):
            pass

    policy = outbound._effective(outbound.PUBLIC)
    pool_of(outbound.PUBLIC)._resolver = Lying()
    error = await failure(call("https://rebind.example.com:8443"), policy)

    assert type(error) is AddressRefused
    assert provider.requests == []


def words(text):
    return text.split()


PRIVATE = words("""
    127.0.0.1 127.1.2.3 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 255.255.255.255 224.0.0.1
    192.0.2.1 198.18.0.1 240.0.0.1 192.88.99.1 ::1 :: fe80::1 fc00::1 fd00::1 fec0::1 ff02::1 ::ffff:127.0.0.1
    ::ffff:169.254.169.254 ::ffff:8.8.8.8 64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::1 2002:7f00:1:: 2002:808:808::
    2001:0:1::1 2001:db8::1 ::7f00:1 100::1
""")


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public_are_refused(address):
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ForbiddenAddress):
        check_url(f"https://{host}/v1")
    assert not outbound._is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "2a00:1450::1"])
def test_public_addresses_are_accepted(address):
    check_url(f"https://[{address}]/v1" if ":" in address else f"https://{address}/v1")


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com/v1",
        "https://API.Example.com:8443/openai/v1/",
        "https://my-resource.openai.azure.com/openai/deployments/gpt-4o",
        "https://example.com",
    ],
)
def test_ordinary_base_urls_are_accepted(url):
    check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        *words("""
    http://api.example.com/v1 https://api.example.com:22 ftp://example.com file:///etc/passwd gopher://example.com
    https://user@example.com https://user:pass@example.com https://example.com@127.0.0.1 https://localhost
    https://a.localhost https://intranet https://2130706433 https://0x7f000001 https://0177.0.0.1 https://127.1
    https://0x7f.1 https://1.2.3.4.5 https://example.com. https://example..com https://-a.example.com
    https://example.com/%2e%2e https://example.com?x=1 https://example.com#x https://example.com\\@127.0.0.1
    https://[::1%25eth0]/ https://[::1 https:///v1 https:example.com //example.com example.com
    https://127.0.0.1:443 https://exa_mple https://１２７.0.0.1 https://ⓔxample.com https://example.com:99999
        """),
        "",
        "https://exam ple.com",
        "https://example.com\n",
        "https://example.com/\x00",
        "javascript:alert(1)",
    ],
)
def test_urls_that_are_not_plain_public_https_are_refused(url):
    with pytest.raises(ForbiddenAddress) as caught:
        check_url(url)

    assert (caught.value.status, caught.value.code) == (400, "forbidden_address")


def test_an_operator_allows_plain_http_and_any_port_by_host_and_port(settings):
    settings.RESPAN_UPSTREAM_ALLOW = ["10.0.0.5:8000", "llm.internal:9000", "[fd00::5]:8000"]
    for url in ("http://10.0.0.5:8000/v1", "http://llm.internal:9000", "https://LLM.internal:9000/v1"):
        check_url(url)
    check_url("http://[fd00:0::5]:8000/v1")
    for url in (
        "http://10.0.0.5:8001/v1",
        "http://10.0.0.6:8000",
        "http://llm.internal:9001",
        "http://a.internal:9000",
    ):
        with pytest.raises(ForbiddenAddress):
            check_url(url)


def test_the_loopback_policy_allows_this_host_and_nothing_else_private():
    for url in ("http://127.0.0.1:9000/v1", "http://localhost:1234", "http://[::1]:80/v1"):
        check_url(url, LOOPBACK)
    for url in ("http://10.0.0.1:9000", "http://169.254.169.254", "http://example.com", "http://0.0.0.0:9000"):
        with pytest.raises(ForbiddenAddress):
            check_url(url, LOOPBACK)
