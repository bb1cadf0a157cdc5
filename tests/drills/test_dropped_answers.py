"""Answers that get lost on their way, 500 of them, with the OpenAI SDK's own retries: nothing is called or paid twice.

`fake/exact` costs nothing for input and always writes exactly `max_tokens`; `fake/exact-late` does so after 0.3 s.
"""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai import OpenAI

from tests.drills.conftest import Site
from tests.dropping import Dropping

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("dropped")]

CALLS = 500
CALL_NANO = 20 * 10_000  # 20 output tokens at $10 a million


def lose_answers(site: Site, *, mode: str, model: str) -> None:
    """Lose the first answer of every call; check that each was made and charged once."""
    site.customer("1")
    before = len(site.provider.requests)
    began_at = time.monotonic()
    with (
        Dropping(site.installation.base_url, mode=mode) as proxy,
        OpenAI(base_url=f"{proxy.base_url}/api/", api_key=site.api_key, max_retries=2) as client,
        ThreadPoolExecutor(20) as threads,
    ):

        def ask(_: int) -> str:
            messages = [{"role": "user", "content": f"Hello {uuid.uuid4().hex}"}]
            answer = client.chat.completions.create(model=model, messages=messages, max_tokens=20)
            return answer.choices[0].message.content

        answers = list(threads.map(ask, range(CALLS)))
    took_s = time.monotonic() - began_at

    assert all(len(answer.split()) == 20 for answer in answers)
    assert (proxy.dropped, proxy.passed) == (CALLS, CALLS)
    upstream = len(site.provider.requests) - before
    books = site.settled(spans=CALLS, timeout_s=60)
    charges = (site.granted_nano - books["posted"]) / CALL_NANO
    print(f"{CALLS} dropped answers ({mode}): {upstream} upstream calls, {charges:g} charges, {took_s:.1f} s")
    assert (upstream, charges, books["held"], books["count"]) == (CALLS, CALLS, 0, CALLS)
    assert site.verify_ledger().returncode == 0


def test_answers_lost_on_their_way(site):
    lose_answers(site, mode="answer", model="fake/exact")


def test_answers_whose_client_left_before_they_were_ready(site):
    lose_answers(site, mode="early", model="fake/exact-late")


def test_answers_nobody_read_with_two_web_processes(site_of_two):
    lose_answers(site_of_two, mode="reset", model="fake/exact")


def test_answers_whose_client_left_with_two_web_processes(site_of_two):
    lose_answers(site_of_two, mode="early", model="fake/exact-late")
