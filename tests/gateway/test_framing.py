"""Promises of `gateway.framing`: the same events however a stream is cut, and not one byte lost."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.framing import SSE, Event, FramingError

LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
FIELDS = st.sampled_from(
    [b"data: {}", b"data:x", b"data", b"data:  two spaces", b": comment", b"event: error", b"id: 7", b"retry: 5", b""]
)
STREAMS = st.lists(st.tuples(FIELDS, LINE_ENDS), max_size=14).map(lambda lines: b"".join(a + b for a, b in lines))


def events_of(blocks, **options):
    reader = SSE(**options)
    events = [event for block in blocks for event in reader.feed(block)]
    return events + reader.end()


def every(size, stream):
    return [stream[i : i + size] for i in range(0, len(stream), size)]


def reference(stream):
    """The data of each dispatched event, by the book: line after line."""
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    found, data = [], []
    for line in [*text.split(b"\n"), b""]:
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
        elif data:
            found.append(b"\n".join(data))
            data = []
    return [item for item in found if item]


@given(stream=STREAMS, bom=st.booleans())
@settings(max_examples=400, deadline=None)
@example(stream=b"data: a\r\n\r\ndata: b\r\r\ndata: c\n\r\n\n\n\r", bom=True)
def test_a_stream_gives_the_same_events_wherever_it_is_cut(stream, bom):
    stream = b"\xef\xbb\xbf" * bom + stream
    whole = events_of([stream])

    assert b"".join(event.raw for event in whole) == stream
    assert [event.data for event in whole if event.data] == reference(stream)
    for size in (1, 2, 3, 7):
        assert events_of(every(size, stream)) == whole
    for cut in range(len(stream)):
        assert events_of([stream[:cut], stream[cut:]]) == whole


@given(block=st.binary(max_size=60), size=st.integers(1, 5))
@settings(max_examples=400, deadline=None)
def test_arbitrary_bytes_are_kept_and_never_break_it(block, size):
    events = events_of(every(size, block))

    assert b"".join(event.raw for event in events) == block
    assert events == events_of([block])


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_each_line_end_ends_an_event_as_soon_as_that_is_certain(end):
    reader = SSE()
    first = b"data: 1" + end + end
    events = reader.feed(first + b"d") if end == b"\r" else reader.feed(first)

    assert events == [Event(first, b"1")]


def test_an_event_is_not_waited_for_once_its_blank_line_has_come():
    reader = SSE()

    assert [event.data for event in reader.feed(b"data: 1\n\n")] == [b"1"]
    assert [event.data for event in reader.feed(b"data: 2\n\n")] == [b"2"]
    assert reader.feed(b"data: 3\n") == []
    assert [event.data for event in reader.feed(b"\n")] == [b"3"]


def test_data_of_several_lines_is_joined_and_the_event_is_named():
    (event,) = SSE().feed(b"event: error\ndata: one\ndata:two\nid: 1\n\n")

    assert (event.event, event.data) == (b"error", b"one\ntwo")


def test_a_comment_is_an_event_without_data_and_keeps_its_bytes():
    (event,) = SSE().feed(b": OPENROUTER PROCESSING\n\n")

    assert event == Event(b": OPENROUTER PROCESSING\n\n", b"")


def test_a_byte_order_mark_is_no_part_of_the_first_field():
    first, second = events_of([b"\xef", b"\xbb\xbfdata: 1\n\n", b"data: 2\n\n"])

    assert (first.raw, first.data, second.data) == (b"\xef\xbb\xbfdata: 1\n\n", b"1", b"2")


def test_a_last_event_without_a_blank_line_comes_at_the_end():
    assert [event.data for event in events_of([b"data: 1\n\ndata: [DONE]"])] == [b"1", b"[DONE]"]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_event_above_the_limit_is_refused_after_the_events_before_it(size):
    stream = b"data: 1\n\ndata: " + b"x" * 200 + b"\n\n"
    reader, events = SSE(limit=100), []
    with pytest.raises(FramingError):  # noqa: PT012  (which block raises depends on the cut)
        for block in every(size, stream):
            events += reader.feed(block)
        reader.end()

    assert [event.data for event in events] == [b"1"]


def test_a_megabyte_in_small_blocks_does_not_take_quadratic_time():
    reader = SSE()
    for _ in range(100_000):
        reader.feed(b"0123456789")

    assert len(reader.end()[0].raw) == 1_000_000
