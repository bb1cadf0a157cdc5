"""A real inference server as provider: llama.cpp's own, with a model made on the spot, nothing downloaded but packages.

It speaks chat completions, messages and Responses itself. Every client's SDK talks to it in its own dialect, and, over
a second provider that offers chat completions only, translated. Long; the packages (xllamacpp, gguf, numpy) are
installed into a cache folder (`RESPAN_LLAMA`, else below the system's temporary folder), where that is possible.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from tests.sdk.speakers import SPEAKERS, Question, Speaker
from tests.servers import free_port, status, wait_until
from tests.stack import connect

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
PROGRAM = Path(__file__).with_name("tiny_model.py")
SENTENCE = "hello world世🎉é"
KEY = "sk-local"
PACKAGES = ("numpy", "gguf", "xllamacpp")
_FILE = """
id = "{id}"
name = "Tiny"
dialect = "openai_chat"
transport = "http"
base_url = "http://127.0.0.1:{port}/v1"
auth = "bearer"
credential_fields = ["api_key"]
max_tokens_field = "max_tokens"
usage_in_stream = true
{also}
[[models]]
id = "tiny"
context_tokens = 4096
max_output_tokens = 2048
price = {{ input = "1", output = "2" }}
capabilities = ["tools", "streaming"]
"""


@pytest.fixture(scope="session")
def packages() -> Path:
    """Install what the server needs; return the folder. Skips where pip cannot."""
    folder = Path(os.environ.get("RESPAN_LLAMA") or Path(tempfile.gettempdir()) / "respan-llama")
    if not (folder / "xllamacpp").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), *PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500)
        if done.returncode:
            pytest.skip(f"pip cannot install {', '.join(PACKAGES)}: {done.stderr[-300:]}")
    return folder


@pytest.fixture(scope="session")
def llama(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Run the server; return its port."""
    folder, port = tmp_path_factory.mktemp("llama"), free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(folder / "tiny.gguf"), str(port)],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(packages)},
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: status(f"http://127.0.0.1:{port}", "/health") == 200, what="llama.cpp", timeout_s=60)
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def speakers(
    llama: int, running: Callable[..., Any], transactional_db: None, tmp_path: Path
) -> Iterator[dict[str, Speaker]]:
    """Every SDK, connected to a gateway that has the server as provider `tiny`, and as `tiny-chat` without the rest."""
    from accounts import keys
    from gateway.providers import catalog
    from tests.conftest import make_organization, make_user

    folder = tmp_path / "catalogue"
    folder.mkdir()
    both = '[also]\nanthropic = ""\nopenai_responses = ""\n'
    for id, also in (("tiny", both), ("tiny-chat", "")):
        (folder / f"{id}.toml").write_text(_FILE.format(id=id, port=llama, also=also))
    server = running(env={"RESPAN_CATALOG_EXTRA": str(folder), "RESPAN_UPSTREAM_ALLOW": f"127.0.0.1:{llama}"})
    owner = make_user("owner")
    organization = make_organization("Tiny", owner=owner)
    catalog.cache_clear()
    with override_settings(RESPAN_CATALOG_EXTRA=[folder]):
        for id in ("tiny", "tiny-chat"):
            connect(organization, id, secret=KEY, base_url=f"http://127.0.0.1:{llama}/v1")
    catalog.cache_clear()
    key = keys.issue(organization=organization, name="Test", environment="production", created_by=owner).secret
    made = {name: speaker(server.base_url, key) for name, speaker in SPEAKERS.items()}
    yield made
    for speaker in made.values():
        speaker.close()


def test_every_sdk_hears_what_the_server_says(speakers: dict[str, Speaker]) -> None:
    for model in ("tiny/tiny", "tiny-chat/tiny"):
        for name, speaker in speakers.items():
            for streamed in (False, True):
                if (name, model, streamed) == ("responses", "tiny/tiny", True):
                    continue  # its events have no content_index, which the SDK's helper needs: see below
                told = speaker.ask(model, Question("Hi", limit=64), streamed=streamed)
                where = f"{name} at {model}, streamed: {streamed}"
                assert (told.text, told.finish) == (SENTENCE, "stop"), where
                assert told.usage[0] > 10, where
                assert told.usage[1] == 13, where


def test_its_own_responses_are_passed_on_as_they_are(speakers: dict[str, Speaker]) -> None:
    client = speakers["responses"].client  # type: ignore[attr-defined]
    events = list(client.responses.create(model="tiny/tiny", input="Hi", stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == SENTENCE
    assert events[-1].response.usage.output_tokens == 13


def test_a_streamed_call_of_a_forced_tool_arrives(speakers: dict[str, Speaker]) -> None:
    days = {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]}
    question = Question("Hi", tools=("get_weather",), parameters=days, forced="any", limit=512)
    for model in ("tiny/tiny", "tiny-chat/tiny"):
        for name, speaker in speakers.items():
            told = speaker.ask(model, question, streamed=True)
            where = f"{name} at {model}"
            assert [tool for _, tool, _ in told.calls] == ["get_weather"], where
            assert type(told.calls[0][2]["days"]) is int, where
            assert told.finish == "tool_calls", where


def test_how_likely_its_tokens_were_is_told_in_every_dialect(speakers: dict[str, Speaker]) -> None:
    clients = {name: speaker.client for name, speaker in speakers.items()}  # type: ignore[attr-defined]
    hello: Any = [{"role": "user", "content": "Hi"}]
    chat = clients["chat"].chat.completions.create(
        model="tiny/tiny", messages=hello, max_tokens=64, logprobs=True, top_logprobs=2
    )
    told = [(each.token, each.logprob) for each in chat.choices[0].logprobs.content]
    assert "".join(token for token, _ in told) == SENTENCE

    response = clients["responses"].responses.create(
        model="tiny-chat/tiny", input="Hi", include=["message.output_text.logprobs"], top_logprobs=2
    )
    translated = response.output[0].content[0].logprobs
    assert [(each.token, each.logprob) for each in translated] == told
    assert all(len(each.top_logprobs) == 2 for each in translated)

    answer = clients["google"].models.generate_content(
        model="tiny-chat/tiny", contents="Hi", config={"response_logprobs": True, "logprobs": 2}
    )
    result = answer.candidates[0].logprobs_result
    assert [(each.token, each.log_probability) for each in result.chosen_candidates] == told


def test_several_answers_of_it_are_candidates(speakers: dict[str, Speaker]) -> None:
    client = speakers["google"].client  # type: ignore[attr-defined]
    answer = client.models.generate_content(model="tiny-chat/tiny", contents="Hi", config={"candidate_count": 2})
    assert [candidate.content.parts[0].text for candidate in answer.candidates] == [SENTENCE, SENTENCE]
    assert [candidate.index for candidate in answer.candidates] == [0, 1]
