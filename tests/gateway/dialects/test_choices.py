"""Promises about several answers to one call (`n`, `candidateCount`) and about how likely their tokens were: what a
client's SDK reads of a provider of another dialect, and what that provider is asked for.
"""

import json

import pytest
from anthropic.types import Message as AnthropicMessage
from google.genai.types import GenerateContentResponse
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from billing.usage import Usage
from gateway.dialects import blocks, gemini, openai_chat, wire
from gateway.dialects.exchange import Passing, Translating
from gateway.dialects.registry import CLIENTS, TARGETS
from tests.gateway.dialects.gemini_cases import Model, metered, order, said, sse

CONTEXT = wire.Context("abc", 1_700_000_000)
HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "look.up-it", "parameters": {"type": "object", "properties": {}}}}
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
EVENT = TypeAdapter(ResponseStreamEvent)

HI = {"token": "Hi", "logprob": -0.25, "bytes": [72, 105], "top_logprobs": []}
HI["top_logprobs"] = [
    {"token": "Hi", "logprob": -0.25, "bytes": [72, 105]},
    {"token": "Ho", "logprob": -1.5, "bytes": [72, 111]},
]
THERE = {"token": " thére", "logprob": -0.5, "bytes": None, "top_logprobs": []}
LIKELY = [
    blocks.Logprob(
        "Hi", -0.25, [72, 105], [blocks.Logprob("Hi", -0.25, [72, 105]), blocks.Logprob("Ho", -1.5, [72, 111])]
    ),
    blocks.Logprob(" thére", -0.5),
]
RESULT = {
    "chosenCandidates": [
        {"token": "Hi", "tokenId": 3, "logProbability": -0.25},
        {"token": " thére", "tokenId": 4, "logProbability": -0.5},
    ],
    "topCandidates": [
        {"candidates": [{"token": "Hi", "logProbability": -0.25}, {"token": "Ho", "logProbability": -1.5}]},
        {"candidates": []},
    ],
}


def client_of(dialect, **members):
    """Return a client's request; of Gemini's the members are its settings."""
    usual = {
        "openai_chat": {"messages": HELLO},
        "openai_responses": {"input": "hello"},
        "anthropic": {"messages": HELLO, "max_tokens": 9},
    }
    if dialect == "gemini":
        stream = members.pop("stream", False)
        body = {"contents": [{"parts": [{"text": "hello"}]}], "generationConfig": members}
        return gemini.read(json.dumps(body).encode(), named=wire.Named("m", stream, sse=True))
    return CLIENTS[dialect].read(json.dumps({"model": "m"} | usual[dialect] | members).encode())


def translating(client, target, **members):
    asked = client_of(client, **members)
    half = CLIENTS[client].translated
    assert half is not None
    return Translating(CLIENTS[client], TARGETS[target], asked, half.decode(asked), CONTEXT)


def sent(client, target, model=None, **members):
    made = translating(client, target, **members).sent(order(model or Model(thinking="none")))
    return json.loads(made.body), made.dropped


def heard(client, target, answer, **members):
    """Return what a client gets for a provider's whole answer."""
    exchange = translating(client, target, **members)
    exchange.sent(order())
    whole = exchange.whole(json.dumps(answer).encode(), "application/json")
    assert whole.answer.error is None
    return whole


def streamed(client, target, stream, **members):
    """Return what a client gets for a provider's stream, in whatever pieces that comes."""
    found = set()
    for size in (1, 7, 1_000_000):
        reader = translating(client, target, stream=True, **members).reader()
        written = [reader.feed(stream[at : at + size]) for at in range(0, len(stream), size)]
        found.add(b"".join(written) + reader.end())
        assert reader.complete
    (body,) = found
    parts = [part for part in body.replace(b"\r\n", b"\n").split(b"\n\n") if part]
    return [json.loads(part.rpartition(b"data: ")[2]) for part in parts if not part.endswith(b"[DONE]")]


def completion(*choices, **members):
    listed = [{"index": index, "finish_reason": "stop"} | choice for index, choice in enumerate(choices)]
    value = {"id": "c", "object": "chat.completion", "created": 5, "model": "m", "choices": listed, "usage": USAGE}
    return value | members


def message(text, **members):
    return {"message": {"role": "assistant", "content": text}} | members


# --- several answers ------------------------------------------------------------------------------------------------


def test_gemini_is_asked_for_as_many_candidates():
    assert sent("openai_chat", "gemini", n=3) == (
        {**sent("openai_chat", "gemini")[0], "generationConfig": {"candidateCount": 3}},
        [],
    )
    assert sent("gemini", "openai_chat", candidateCount=3)[0]["n"] == 3


def test_all_candidates_are_choices():
    answer = metered(
        {
            "candidates": [
                {"content": {"parts": [{"text": "one"}]}, "finishReason": "STOP"},
                {
                    "content": {"parts": [{"functionCall": {"name": "f", "args": {}}}]},
                    "finishReason": "STOP",
                    "index": 1,
                },
                {"content": {"parts": [{"text": "thr"}]}, "finishReason": "MAX_TOKENS", "index": 2},
            ]
        },
        promptTokenCount=7,
        candidatesTokenCount=9,
    )
    whole = heard("openai_chat", "gemini", answer, n=3)
    found = ChatCompletion.model_validate_json(whole.body)
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    assert [choice.message.content for choice in found.choices] == ["one", None, "thr"]
    assert [choice.finish_reason for choice in found.choices] == ["stop", "tool_calls", "length"]
    assert found.choices[1].message.tool_calls[0].function.name == "f"
    assert (whole.answer.usage, whole.answer.output_text) == (Usage(input_tokens=7, output_tokens=9), "onef{}thr")


def test_all_choices_are_candidates():
    answer = completion(message("one"), message("two", finish_reason="length"))
    found = GenerateContentResponse.model_validate_json(heard("gemini", "openai_chat", answer, candidateCount=2).body)
    assert [candidate.index for candidate in found.candidates] == [0, 1]
    assert [candidate.content.parts[0].text for candidate in found.candidates] == ["one", "two"]
    assert [candidate.finish_reason for candidate in found.candidates] == ["STOP", "MAX_TOKENS"]
    assert found.usage_metadata.candidates_token_count == 5


def test_tools_of_every_answer_have_the_clients_names():
    call = {"functionCall": {"name": "look.up-it", "args": {}}}
    answer = said(call, finishReason="STOP")
    answer["candidates"].append(answer["candidates"][0] | {"index": 1})
    long = "x" * 80
    exchange = translating("openai_chat", "gemini", n=2, tools=[TOOL | {"function": {"name": long}}])
    body = json.loads(exchange.sent(order()).body)
    shortened = body["tools"][0]["functionDeclarations"][0]["name"]
    whole = exchange.whole(json.dumps(answer).replace("look.up-it", shortened).encode(), "application/json")
    found = json.loads(whole.body)["choices"]
    assert [choice["message"]["tool_calls"][0]["function"]["name"] for choice in found] == [long, long]


def test_a_client_whose_dialect_has_one_answer_reads_the_first():
    answer = completion(message("one"), message("two"))
    found = AnthropicMessage.model_validate_json(heard("anthropic", "openai_chat", answer).body)
    assert [block.text for block in found.content] == ["one"]
    assert Response.model_validate_json(heard("openai_responses", "openai_chat", answer).body).output_text == "one"


def test_an_answer_that_failed_beside_a_good_one_is_left_out():
    answer = said({"text": "one"}, finishReason="STOP")
    answer["candidates"].append({"index": 1, "finishReason": "MALFORMED_FUNCTION_CALL"})
    assert len(json.loads(heard("openai_chat", "gemini", answer, n=2).body)["choices"]) == 1


@pytest.mark.parametrize(
    ("client", "target", "members", "param"),
    [
        ("openai_chat", "gemini", {"n": 2, "stream": True}, "n"),
        ("openai_chat", "gemini", {"n": 9}, "n"),
        ("gemini", "openai_chat", {"candidateCount": 2, "stream": True}, "n"),
        *(("openai_chat", target, {"n": 2}, "n") for target in ("anthropic", "openai_responses", "bedrock", "cohere")),
        *(("gemini", target, {"candidateCount": 2}, "n") for target in ("anthropic", "openai_responses", "bedrock")),
    ],
)
def test_several_answers_are_refused_where_nobody_gives_them(client, target, members, param):
    with pytest.raises(blocks.Unsupported) as caught:
        sent(client, target, **members)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("client", "members", "param"),
    [
        ("openai_chat", {"n": 2}, "n"),
        ("gemini", {"candidateCount": 2}, "generationConfig.candidateCount"),
    ],
)
def test_a_model_that_gives_one_answer_is_not_silently_asked_for_one(client, members, param):
    single = order(Model(unsupported=frozenset({"n"})))
    with pytest.raises(blocks.Unsupported) as caught:
        Passing(CLIENTS[client], client_of(client, **members)).sent(single)
    assert caught.value.param == param
    one = Passing(CLIENTS[client], client_of(client, **dict.fromkeys(members, 1))).sent(single)
    assert one.dropped == ["n"]
    with pytest.raises(blocks.Unsupported) as caught:
        sent("openai_chat", "gemini", single.model, n=2)
    assert caught.value.param == "n"


# --- how likely the tokens were -------------------------------------------------------------------------------------


def test_probabilities_are_asked_for_by_each_dialects_names():
    asked = {"logprobs": True, "top_logprobs": 2}
    assert sent("openai_chat", "gemini", **asked)[0]["generationConfig"] == {"responseLogprobs": True, "logprobs": 2}
    body, dropped = sent("openai_chat", "openai_responses", **asked)
    assert (body["include"][1:], body["top_logprobs"], dropped) == (["message.output_text.logprobs"], 2, [])
    assert sent("openai_chat", "cohere", **asked)[0]["logprobs"] is True
    body, _ = sent("gemini", "openai_chat", responseLogprobs=True, logprobs=2)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 2)
    include = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    body, _ = sent("openai_responses", "openai_chat", **include)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 2)
    assert sent("openai_responses", "gemini", **include)[0]["generationConfig"]["logprobs"] == 2


def test_how_many_without_whether_is_not_asked():
    assert not {"logprobs", "top_logprobs"} & sent("openai_responses", "openai_chat", top_logprobs=2)[0].keys()
    assert "generationConfig" not in sent("openai_chat", "gemini", top_logprobs=2)[0]


@pytest.mark.parametrize(
    ("target", "model", "dropped"),
    [
        ("anthropic", Model(), ["logprobs", "top_logprobs"]),
        ("bedrock", Model(), ["logprobs", "top_logprobs"]),
        ("cohere", Model(), ["top_logprobs"]),
        ("gemini", Model(unsupported=frozenset({"logprobs", "top_logprobs"})), ["logprobs"]),
        ("openai_responses", Model(unsupported=frozenset({"logprobs"})), ["logprobs"]),
        ("openai_responses", Model(unsupported=frozenset({"top_logprobs"})), ["top_logprobs"]),
    ],
)
def test_who_has_none_is_not_asked_and_that_is_said(target, model, dropped):
    _, left_out = sent("openai_chat", target, model, logprobs=True, top_logprobs=2)
    assert left_out == dropped


def test_where_reasoning_was_asked_for_they_are_dropped():
    body, dropped = sent(
        "openai_chat", "openai_responses", Model(thinking="effort"), logprobs=True, reasoning_effort="low"
    )
    assert body["include"] == ["reasoning.encrypted_content"]
    assert dropped == ["logprobs"]


def written_by(client, whole):
    """Return the probabilities that a client's SDK reads."""
    if client == "openai_chat":
        found = ChatCompletion.model_validate_json(whole.body).choices[0].logprobs
        assert found.refusal is None
        return [each.model_dump() for each in found.content]
    if client == "openai_responses":
        part = Response.model_validate_json(whole.body).output[0].content[0]
        return [each.model_dump() for each in part.logprobs]
    result = GenerateContentResponse.model_validate_json(whole.body).candidates[0].logprobs_result
    return result.model_dump(exclude_none=True)


def provider_says(target):
    """Return a whole answer with probabilities."""
    if target == "openai_chat":
        return completion(message("Hi thére", logprobs={"content": [HI, THERE], "refusal": None}))
    if target == "gemini":
        return said({"text": "Hi thére"}, finishReason="STOP", logprobsResult=RESULT)
    part = {"type": "output_text", "text": "Hi thére", "annotations": [], "logprobs": [HI, THERE]}
    output = [{"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [part]}]
    return {"object": "response", "id": "r", "status": "completed", "output": output}


@pytest.mark.parametrize("target", ["openai_chat", "openai_responses", "gemini"])
@pytest.mark.parametrize("client", ["openai_chat", "openai_responses", "gemini"])
def test_every_client_reads_how_likely_the_tokens_were(client, target):
    if client == target:
        return
    found = written_by(client, heard(client, target, provider_says(target)))
    if client == "gemini":
        chosen = [(each["token"], each["log_probability"]) for each in found["chosen_candidates"]]
        tops = [[each["token"] for each in top["candidates"]] for top in found["top_candidates"]]
        assert found["log_probability_sum"] == -0.75
    else:
        chosen = [(each["token"], each["logprob"]) for each in found]
        tops = [[each["token"] for each in top["top_logprobs"]] for top in found]
        known = target != "gemini" or client == "openai_responses"
        assert found[0]["bytes"] == ([72, 105] if known else None)
        assert found[1]["bytes"] == (list(" thére".encode()) if client == "openai_responses" else None)
    assert chosen == [("Hi", -0.25), (" thére", -0.5)]
    assert tops == [["Hi", "Ho"], []]


def stream_of(target):
    """Return a stream whose text comes in two pieces, each with its probabilities."""
    if target == "openai_chat":
        head = {"id": "c", "object": "chat.completion.chunk", "created": 5, "model": "m"}
        pieces = [("Hi", HI), (" thére", THERE)]
        chunks = [
            {"index": 0, "delta": {"content": text}, "logprobs": {"content": [entry], "refusal": None}}
            for text, entry in pieces
        ]
        chunks.append({"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"})
        return sse(*({**head, "choices": [choice]} for choice in chunks)) + openai_chat.DONE
    if target == "gemini":
        halves = [{name: [listed[place]] for name, listed in RESULT.items()} for place in (0, 1)]
        return sse(
            said({"text": "Hi"}, logprobsResult=halves[0]),
            said({"text": " thére"}, logprobsResult=halves[1], finishReason="STOP"),
        )
    place = {"item_id": "m", "output_index": 0, "content_index": 0}
    kind = "response.output_text.delta"
    deltas = [
        {"type": kind, "delta": text, "logprobs": [entry], **place} for text, entry in (("Hi", HI), (" thére", THERE))
    ]
    done = {"type": "response.output_text.done", "text": "Hi thére", "logprobs": [HI, THERE], **place}
    return sse(
        {"type": "response.created", "response": {"id": "r", "object": "response", "output": []}},
        *deltas,
        done,
        {"type": "response.completed", "response": provider_says(target)},
    )


@pytest.mark.parametrize("target", ["openai_chat", "openai_responses", "gemini"])
@pytest.mark.parametrize("client", ["openai_chat", "openai_responses", "gemini"])
def test_a_stream_says_of_each_piece_how_likely_it_was(client, target):
    if client == target:
        return
    found = streamed(client, target, stream_of(target))
    if client == "openai_chat":
        state = ChatCompletionStreamState()
        for value in found:
            state.handle_chunk(ChatCompletionChunk.model_validate(value))
        choice = state.current_completion_snapshot.choices[0]
        assert choice.message.content == "Hi thére"
        told = [(each.token, each.logprob) for each in choice.logprobs.content]
    elif client == "openai_responses":
        for value in found:
            EVENT.validate_python(value)
        deltas = [value for value in found if value["type"] == "response.output_text.delta"]
        told = [(each["token"], each["logprob"]) for value in deltas for each in value["logprobs"]]
        done = next(value for value in found if value["type"] == "response.output_text.done")
        part = found[-1]["response"]["output"][0]["content"][0]
        assert part["text"] == "Hi thére"
        assert done["logprobs"] == part["logprobs"]
        assert [each["token"] for each in part["logprobs"]] == ["Hi", " thére"]
    else:
        results = [GenerateContentResponse.model_validate(value).candidates[0].logprobs_result for value in found]
        chosen = [each for result in results if result is not None for each in result.chosen_candidates]
        told = [(each.token, each.log_probability) for each in chosen]
    assert told == [("Hi", -0.25), (" thére", -0.5)]


def test_cohere_tells_those_of_its_pieces():
    answer = {
        "message": {"role": "assistant", "content": [{"type": "text", "text": "Hi there"}]},
        "finish_reason": "COMPLETE",
        "logprobs": [
            {"text": "Hi", "token_ids": [3], "logprobs": [-0.25]},
            {"text": " there", "token_ids": [4, 5], "logprobs": [-0.5, -0.25]},
            {"token_ids": [6], "logprobs": None},
        ],
    }
    whole = heard("openai_chat", "cohere", answer)
    assert [(each["token"], each["logprob"]) for each in written_by("openai_chat", whole)] == [
        ("Hi", -0.25),
        (" there", -0.75),
    ]
    delta = {"message": {"content": {"text": "Hi"}}}
    stream = sse(
        {"type": "content-delta", "index": 0, "delta": delta, "logprobs": answer["logprobs"][0]},
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}},
    )
    told = [chunk["choices"][0].get("logprobs") for chunk in streamed("openai_chat", "cohere", stream)]
    assert [each["content"][0]["logprob"] for each in told if each] == [-0.25]


def test_what_is_no_probability_is_left_out():
    odd = [7, {"token": 5, "logprob": -1}, {"token": "a", "logprob": True}, {"token": "a"}]
    odd += [{"token": "b", "logprob": float("-inf"), "bytes": ["x"], "top_logprobs": None}]
    whole = heard("gemini", "openai_chat", completion(message("b", logprobs={"content": odd})))
    chosen = json.loads(whole.body)["candidates"][0]["logprobsResult"]["chosenCandidates"]
    assert chosen == [{"token": "b", "logProbability": -9999.0}]
    for result in (7, {}, {"chosenCandidates": 3}, {"chosenCandidates": [{"token": "a"}, 5]}):
        whole = heard("openai_chat", "gemini", said({"text": "b"}, finishReason="STOP", logprobsResult=result))
        assert json.loads(whole.body)["choices"][0]["logprobs"] is None


def test_a_provider_that_sends_probabilities_without_end_cannot_fill_our_memory():
    gathered = blocks.Gatherer(1_000)
    for _ in range(50):
        gathered.take(blocks.LogprobsDelta(LIKELY))
    assert 0 < len(gathered.answer.logprobs) <= 10
