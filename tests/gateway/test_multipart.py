"""Forms in memory: strict where two readers could differ, and every byte kept that nobody changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import multipart
from gateway.multipart import InvalidForm, parse

TYPE = "multipart/form-data; boundary=xYz"
SOUND = b"ID3\x04\x00\r\n--not the boundary\r\n\x00\xff"


def part(name, content, extra=b""):
    return b'--xYz\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (name, extra, content)


BODY = (
    part(b"model", b"whisper-1")
    + part(b"file", SOUND, b'; filename="a b.mp3"\r\nContent-Type: audio/mpeg')
    + part(b"language", b"en")
    + b"--xYz--\r\n"
)


def test_fields_and_files_are_found_where_they_are():
    form = parse(BODY, TYPE)
    assert list(form.fields()) == [("model", "whisper-1"), ("language", "en")]
    [file] = form.files()
    assert (file.name, file.filename, file.content_type, file.size) == ("file", "a b.mp3", "audio/mpeg", len(SOUND))
    assert BODY[file.start : file.stop] == SOUND


def test_a_changed_field_leaves_every_other_byte_as_it_was():
    changed = parse(BODY, TYPE).changed({"model": "whisper-large-v3"})
    assert changed == BODY.replace(b"whisper-1", b"whisper-large-v3")


def test_nothing_to_change_is_the_same_object():
    form = parse(BODY, TYPE)
    assert form.changed({"model": "whisper-1"}) is BODY
    assert form.changed({}, drop=("absent",)) is BODY


def test_a_dropped_field_takes_its_head_with_it():
    changed = parse(BODY, TYPE).changed({}, drop=("model",))
    assert changed == BODY.removeprefix(part(b"model", b"whisper-1"))
    assert list(parse(changed, TYPE).fields()) == [("language", "en")]


def test_a_missing_field_is_added_at_the_end():
    changed = parse(BODY, TYPE).changed({"stream": "true"})
    assert changed.startswith(BODY.removesuffix(b"--xYz--\r\n"))
    assert parse(changed, TYPE).text("stream") == "true"


def test_quoted_names_are_read_as_browsers_and_as_curl_write_them():
    body = part(b"file", b"1", rb'; filename="a%22b\"c\\d.txt"') + b"--xYz--"
    assert parse(body, TYPE).parts[0].filename == 'a"b"c\\d.txt'
    extended = part(b"file", b"1", b"; filename*=UTF-8''na%C3%AFve.txt") + b"--xYz--"
    assert parse(extended, TYPE).parts[0].filename == "na%C3%AFve.txt"


@pytest.mark.parametrize(
    "content_type",
    ['multipart/form-data; boundary="xYz"', "Multipart/Form-Data;boundary=xYz", f"{TYPE}; charset=utf-8"],
)
def test_the_boundary_is_found_however_it_is_written(content_type):
    assert len(parse(BODY, content_type).parts) == 3


def test_an_empty_content_and_an_empty_form_are_forms():
    assert parse(part(b"prompt", b"") + b"--xYz--", TYPE).text("prompt") == ""
    assert parse(b"--xYz--\r\n", TYPE).parts == ()


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (BODY, "application/json"),
        (BODY, "multipart/form-data"),
        (BODY, "multipart/form-data; boundary=" + "x" * 300),
        (BODY, "multipart/form-data; boundary=xYz; boundary=abc"),
        (b"", TYPE),
        (b"preamble\r\n" + BODY, TYPE),
        (BODY.removesuffix(b"--xYz--\r\n"), TYPE),
        (BODY[:-40], TYPE),
        (BODY + b"--xYz\r\n", TYPE),
        (BODY.replace(b"\r\n", b"\n"), TYPE),
        (part(b"file", b"a\r\n--xYzz\r\n") + b"--xYz--", TYPE),
        (part(b"", b"1") + b"--xYz--", TYPE),
        (b"--xYz\r\n\r\ncontent\r\n--xYz--", TYPE),
        (b"--xYz\r\nContent-Disposition: form-data\r\n\r\n1\r\n--xYz--", TYPE),
        (part(b"a", b"1", b"\r\nContent-Disposition: form-data; name=b") + b"--xYz--", TYPE),
        (part(b"a", b"MQ==", b"\r\nContent-Transfer-Encoding: base64") + b"--xYz--", TYPE),
        (part(b"a", b"1", b"; name=b") + b"--xYz--", TYPE),
        (part(b"a", b"1", b"\r\nX-Long: " + b"x" * 5_000) + b"--xYz--", TYPE),
        (part(b"a", b"1", b"\r\n folded") + b"--xYz--", TYPE),
        (part(b"a", b"1") * 257 + b"--xYz--", TYPE),
    ],
)
def test_what_two_readers_could_read_differently_is_refused(body, content_type):
    with pytest.raises(InvalidForm):
        parse(body, content_type)


def test_a_field_given_twice_or_as_a_file_is_refused_by_name():
    twice = parse(part(b"model", b"a") + part(b"model", b"b") + b"--xYz--", TYPE)
    as_file = parse(part(b"model", b"a", b"; filename=m") + b"--xYz--", TYPE)
    for form in (twice, as_file):
        with pytest.raises(InvalidForm) as refused:
            form.text("model")
        assert refused.value.param == "model"


def test_a_field_that_is_no_utf8_or_too_long_is_refused():
    for content in (b"\xff", b"a" * (multipart.MAX_TEXT_BYTES + 1)):
        with pytest.raises(InvalidForm):
            parse(part(b"prompt", content) + b"--xYz--", TYPE).text("prompt")


def test_a_value_cannot_bring_a_boundary_of_its_own():
    with pytest.raises(InvalidForm):
        parse(BODY, TYPE).changed({"model": "a\r\n--xYz--"})


names = st.text(st.characters(codec="utf-8", exclude_characters='\r\n\0\\"%', exclude_categories=["Cs"]), min_size=1)
contents = st.binary().filter(lambda content: b"\r\n--xYz" not in b"\r\n" + content)


@given(st.lists(st.tuples(names, contents), max_size=8, unique_by=lambda pair: pair[0]), st.text(max_size=20))
def test_what_was_written_is_read_again_and_changes_stay_where_they_are(fields, value):
    body = b"".join(part(name.encode(), content, b"; filename=f") for name, content in fields) + b"--xYz--\r\n"
    form = parse(body, TYPE)
    assert [(found.name, body[found.start : found.stop]) for found in form.parts] == fields
    if "\r\n--xYz" in f"\r\n{value}":
        return
    changed = parse(form.changed({"model": value}, drop=[name for name, _ in fields[:1]]), TYPE)
    expected = [(name, value.encode() if name == "model" else content) for name, content in fields[1:]]
    if "model" not in [name for name, _ in fields[1:]]:
        expected.append(("model", value.encode()))
    assert [(found.name, changed.body[found.start : found.stop]) for found in changed.parts] == expected


@given(st.data())
def test_no_damaged_form_does_worse_than_being_refused(data):
    position = data.draw(st.integers(0, len(BODY) - 1))
    length = data.draw(st.integers(0, 20))
    damaged = BODY[:position] + data.draw(st.binary(max_size=12)) + BODY[position + length :]
    try:
        form = parse(damaged, TYPE)
        list(form.fields())
        assert parse(form.changed({"added": "x"}), TYPE).text("added") == "x"
    except InvalidForm:
        pass
