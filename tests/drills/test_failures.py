"""Sixteen ways in which a provider fails, met by real SDKs: never a truncated answer that looks complete.

Both SDKs against both upstream dialects, whole and streamed. Without a fallback the SDK raises and the trace tells what
happened; with one at the other upstream the client sees its complete answer and nothing else, as long as nothing of the
first was sent; after the first event nobody takes over silently: the SDK raises. Neighbours: `mishaps.py` (the cases).
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.drills.mishaps import MISHAPS, SDKS, Heard, Mishap, model, says
from tests.provider import Provider
from tests.servers import Server, free_port
from tests.stack import OWN_KEY, Stack, Tenant, connect, new_tenant
from tests.vendors.catalogue import Vendors

# One server of their own serves them all.
pytestmark = pytest.mark.xdist_group("failures")

OTHER = {"chat": "anthropic", "anthropic": "chat"}
# How long a provider may be silent; the healthy one answers within it on a busy machine too.
PATIENCE_S = 2.5


@dataclass
class Scene:
    """A product whose organizations have keys for both fakes; for `gone[upstream]` nobody listens at that one."""

    tenant: Tenant
    gone: dict[str, Tenant]
    passed: list[str]


@dataclass
class Try:
    """One call of one SDK: how the primary breaks, and whether another target stands by."""

    sdk: type
    upstream: str
    script: str
    streamed: bool
    within: bool
    fallback: bool

    def __str__(self) -> str:
        how = f"{'streamed' if self.streamed else 'whole'}, {'with' if self.fallback else 'without'} fallback"
        return f"{self.sdk.name} to {self.upstream} [{self.script}], {how}"


@pytest.fixture(scope="module")
def scene(django_db_setup: None, django_db_blocker, tmp_path_factory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("failures")
    provider, vendors = Provider().start(), Vendors().start()
    nobody = f"127.0.0.1:{free_port()}"
    env = {
        "RESPAN_UPSTREAM_ALLOW": ",".join([provider.address, vendors.anthropic.address, nobody]),
        "RESPAN_FIRST_BYTE_TIMEOUT_S": str(PATIENCE_S),
        "RESPAN_ANSWER_TIMEOUT_S": str(PATIENCE_S),
        "RESPAN_GAP_TIMEOUT_S": str(PATIENCE_S),
    }
    with Server(data_dir=folder / "server", shipper=True, worker=True, env=env) as server:
        stack = Stack(server, provider, vendors)

        def organization(chat: str, claude: str) -> Tenant:
            made = new_tenant(stack)
            connect(made.organization, "custom", secret=OWN_KEY, base_url=chat)
            connect(made.organization, "anthropic", secret="sk-ant-own-1b7e", base_url=claude)
            return made

        with django_db_blocker.unblock():
            here = (provider.base_url, vendors.anthropic.base_url)
            gone = {
                "chat": organization(f"http://{nobody}/v1", here[1]),
                "anthropic": organization(here[0], f"http://{nobody}/v1"),
            }
            seen = Scene(organization(*here), gone, [])
        yield seen
        print(f"\nfailures: {len(seen.passed)}/{len(MISHAPS)} cases, openai and anthropic SDKs, both upstream dialects")
    provider.stop()
    vendors.stop()


def tries(mishap: Mishap) -> list[Try]:
    """Return every call of a case."""
    ways = [(script, False, False) for script in mishap.whole]
    ways += [(script, True, False) for script in mishap.before] + [(script, True, True) for script in mishap.within]
    return [
        Try(sdk, upstream, script, streamed, within, fallback)
        for sdk in SDKS
        for upstream in OTHER
        for script, streamed, within in ways
        for fallback in (False, True)
    ]


async def make(tenant: Tenant, calls: list[Try], mishap: Mishap) -> list[Heard]:
    """Make all calls of a case at once."""
    clients = {sdk: sdk(tenant.stack.base_url, tenant.key) for sdk in SDKS}

    async def one(call: Try) -> Heard:
        params = {"retry_params": {"retry_enabled": False}, **mishap.params}
        params |= {"fallback_models": [model(OTHER[call.upstream])]} if call.fallback else {"disable_fallback": True}
        return await clients[call.sdk].ask(model(call.upstream, call.script), params, streamed=call.streamed)

    try:
        return await asyncio.gather(*(one(call) for call in calls))
    finally:
        for client in clients.values():
            await client.client.close()


def judge(call: Try, heard: Heard, log: dict, mishap: Mishap) -> str | None:
    """Return what is wrong with what a client saw of a call, or with what its log says; None: nothing is."""
    tried = [each for each in log["attempts"] if not each["skipped"]]
    told = (log["failed"], log["fallback"], len(tried))
    if mishap.ends:
        told = (*told[:2], 1)  # a last one may have been asked with no time left
    if call.fallback and not call.within and not mishap.ends:
        if heard.error is not None or heard.text != says(OTHER[call.upstream]):
            return f"not the fallback's answer, but {heard.error!r} {heard.text!r}"
        if heard.finish not in {"stop", "end_turn"}:
            return f"ends with {heard.finish!r}"
        if told != (False, 1, 2) or not tried[0]["next"].startswith("fallback") or tried[1]["reason"] != "fallback":
            return f"the log says {told} {tried}"
        return None
    if heard.error is None:
        return f"looks complete: {heard.text!r}"
    if not says(call.upstream).startswith(heard.text) or (call.within and not heard.text):
        return f"not the beginning of the primary's answer: {heard.text!r}"
    if told != (True, 0, 1) or not log["error_code"]:
        return f"the log says {told} {log['error_code']} {tried}"
    status = getattr(heard.error, "status_code", None)
    if mishap.status is not None and (status, log["status_code"]) != (mishap.status, mishap.status):
        return f"the status is {status}, on the log {log['status_code']}"
    return None


@pytest.mark.parametrize("mishap", MISHAPS, ids=lambda mishap: mishap.name)
def test_a_failing_provider_is_survived_or_told(scene, mishap, transactional_db):
    grouped: dict[str, tuple[Tenant, list[Try]]] = {}
    for call in tries(mishap):
        tenant = scene.gone[call.upstream] if mishap.gone else scene.tenant
        grouped.setdefault(tenant.key, (tenant, []))[1].append(call)
    wrong = {}
    for tenant, calls in grouped.values():
        heard = asyncio.run(make(tenant, calls, mishap))
        for call, one in zip(calls, heard, strict=True):
            assert one.log_id, f"{call}: {one.error!r} has no log id"
            if (fault := judge(call, one, tenant.log(one.log_id), mishap)) is not None:
                wrong[str(call)] = fault
    assert not wrong, "\n".join(f"{call}: {fault}" for call, fault in wrong.items())
    scene.passed.append(mishap.name)


def test_sixteen_cases_are_drilled():
    assert len(MISHAPS) == 16
