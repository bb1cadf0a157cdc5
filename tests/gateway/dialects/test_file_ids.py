"""Files named by an id of a provider's account: found where a dialect has them, refused where nobody can read them."""

import json
from types import SimpleNamespace

import pytest

from gateway.dialects import blocks, file_ids


def asked(**members):
    body = json.dumps(members).encode()
    return SimpleNamespace(body=body, members={name: json.dumps(value).encode() for name, value in members.items()})


CHAT = asked(
    model="m",
    messages=[
        {"role": "system", "content": "x"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "file", "file": {"file_id": "file-1"}}]},
    ],
)


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (CHAT, [("messages[1].content[1].file.file_id", "file-1")]),
        (
            asked(input=[{"role": "user", "content": [{"type": "input_file", "file_id": "file-2"}]}]),
            [("input[0].content[0].file_id", "file-2")],
        ),
        (
            asked(messages=[{"content": [{"type": "document", "source": {"type": "file", "file_id": "file_3"}}]}]),
            [("messages[0].content[0].source.file_id", "file_3")],
        ),
        (
            asked(contents=[{"parts": [{"fileData": {"fileUri": "https://host.example/v1beta/files/4"}}]}]),
            [("contents[0].parts[0].fileData.fileUri", "https://host.example/v1beta/files/4")],
        ),
        (asked(contents=[{"parts": [{"fileData": {"fileUri": "https://video.example/watch?v=1"}}]}]), []),
        (asked(input=[{"content": [{"annotations": [{"type": "file_citation", "file_id": "file-5"}]}]}]), []),
        (asked(messages=[{"content": 'say "file_id" and nothing else'}]), []),
        (asked(messages=[], tools=[{"file_id": "file-6"}]), []),
    ],
)
def test_files_are_found_where_each_dialect_names_them(request_, named):
    assert [(file.path, file.file_id) for file in file_ids.named_in(request_)] == named


PATH = "messages[0].content[0].file.file_id"


def check(file_id, *, dialect="openai_chat", keeps_files=True, on_credits=False):
    named = [file_ids.Named(PATH, file_id)]
    file_ids.check(named, dialect=dialect, keeps_files=keeps_files, provider="Acme", on_credits=on_credits)


def refusal(file_id, **options):
    with pytest.raises(blocks.Unsupported) as refused:
        check(file_id, **options)
    assert refused.value.param == PATH
    return str(refused.value)


@pytest.mark.parametrize(
    ("file_id", "dialect"),
    [
        ("file-1", "openai_chat"),
        ("file-1", "openai_responses"),
        ("assistant-1", "openai_chat"),
        ("file_1", "anthropic"),
        ("files/1", "gemini"),
        ("https://host.example/v1beta/files/4", "gemini"),
    ],
)
def test_an_id_of_the_targets_own_kind_is_sent_on(file_id, dialect):
    check(file_id, dialect=dialect)


@pytest.mark.parametrize(
    ("file_id", "dialect"),
    [("file-1", "anthropic"), ("file_1", "openai_chat"), ("files/1", "openai_chat"), ("file-1", "bedrock")],
)
def test_an_id_of_another_kind_of_account_is_refused(file_id, dialect):
    assert "another provider's account" in refusal(file_id, dialect=dialect)


def test_a_provider_that_keeps_no_files_cannot_have_one():
    assert "Acme cannot read it" in refusal("file-1", keeps_files=False)


def test_an_id_that_tells_nothing_is_left_to_the_provider():
    check("0b6c4b0e-3f1a-4f6e-9d55-4a7c1d2e3f40", keeps_files=False)


def test_credits_never_read_a_file_of_an_account():
    assert "paid by credits" in refusal("file-1", on_credits=True)
    assert "paid by credits" in refusal("0b6c4b0e", on_credits=True)


def test_the_member_that_holds_a_url_is_named():
    request = asked(messages=[{"content": [{"image_url": {"url": "https://a.example/1.png"}}]}])
    assert file_ids.find(request, "https://a.example/1.png") == "messages[0].content[0].image_url.url"
    assert file_ids.find(request, "https://b.example") is None
