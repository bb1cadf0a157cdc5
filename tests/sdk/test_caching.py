"""The cache and the real SDKs: what one of them got whole it gets as a stream, and the other way round.

Each SDK asks twice, once each way, of a vendor of its own dialect and of another's; the second time no vendor is asked.
"""

import uuid

import pytest

from gateway.models import CallSettings
from tests.sdk.speakers import SPEAKERS, Question
from tests.stack import new_tenant

OWN = {"chat": "fake-chat/gpt", "google": "fake-gemini/gemini", "messages": "fake-anthropic/claude"}
OWN["responses"] = "fake-responses/gpt"
OTHER = {**dict.fromkeys(SPEAKERS, "fake-chat/gpt"), "chat": "fake-anthropic/claude"}


@pytest.fixture(scope="module")
def customer(stack, django_db_blocker):
    with django_db_blocker.unblock():
        made = new_tenant(stack, credits_usd="50")
        CallSettings.objects.update_or_create(organization=made.organization, defaults={"cache_enabled": True})
    yield made
    made.close()


@pytest.fixture
def speaker(request, stack, customer):
    made = SPEAKERS[request.param](stack.base_url, customer.key)
    yield made
    made.close()


@pytest.mark.parametrize("streamed_first", [False, True], ids=["whole first", "streamed first"])
@pytest.mark.parametrize("models", [OWN, OTHER], ids=["own dialect", "translated"])
@pytest.mark.parametrize("speaker", sorted(SPEAKERS), indirect=True)
def test_an_answer_is_understood_the_same_whole_and_streamed(speaker, models, streamed_first, customer):
    model = models[speaker.name]
    marker = uuid.uuid4().hex
    question = Question(f"The weather in Paris, {marker}?", tools=("get_weather", "get_time"))
    customer.stack.vendors.forget()
    first = speaker.ask(model, question, streamed=streamed_first)
    again = speaker.ask(model, question, streamed=not streamed_first)
    asked = [seen for seen in customer.stack.vendors.of(model).requests if marker in str(seen.body)]
    assert len(asked) == 1
    assert first.calls
    assert (again.text, again.finish) == (first.text, first.finish)
    assert [call[1:] for call in again.calls] == [call[1:] for call in first.calls]
    for (given, *_), (kept, *_) in zip(first.calls, again.calls, strict=True):
        assert kept == given or not given  # Google's calls may have no id: a stream made of a whole answer gives one
    assert again.usage == first.usage
    assert again.log_id != first.log_id
    told = speaker.ask(model, Question(f"Just text {marker}"), streamed=streamed_first)
    retold = speaker.ask(model, Question(f"Just text {marker}"), streamed=not streamed_first)
    assert retold.text == told.text == f"You said: Just text {marker}"
    assert retold.finish == told.finish
