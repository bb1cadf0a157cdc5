"""Promises of `gateway.framing`: the same events however a stream is cut, and not one byte lost."""

import struct
from contextlib import suppress
from zlib import crc32

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.framing import SSE, Event, EventStream, FramingError

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


# --- AWS event stream -----------------------------------------------------------------------------------------------


def header(name, kind, value):
    return bytes([len(name)]) + name.encode() + bytes([kind]) + value


def text_header(name, text):
    return header(name, 7, struct.pack(">H", len(text.encode())) + text.encode())


def framed(payload, headers=b""):
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", crc32(prelude)) + headers + payload
    return message + struct.pack(">I", crc32(message))


def frames_of(blocks, **options):
    reader = EventStream(**options)
    frames = [frame for block in blocks for frame in reader.feed(block)]
    return frames + reader.end()


NAMES = text_header(":message-type", "event") + text_header(":event-type", "contentBlockDelta")
FRAMES = st.lists(st.binary(max_size=40), min_size=1, max_size=4).map(
    lambda payloads: [framed(payload, NAMES) for payload in payloads]
)


def test_the_header_types_of_an_event_stream_are_all_read():
    headers = b"".join(
        [
            header("yes", 0, b""),
            header("no", 1, b""),
            header("byte", 2, b"\xff"),
            header("short", 3, b"\xff\xfe"),
            header("integer", 4, b"\x00\x01\x00\x00"),
            header("long", 5, b"\x00" * 6 + b"\x01\x00"),
            header("bytes", 6, b"\x00\x02\x00\xff"),
            text_header("text", "grün"),
            header("time", 8, (1_700_000_000_000).to_bytes(8, "big")),
            header("uuid", 9, bytes(range(16))),
        ]
    )
    (frame,) = frames_of([framed(b"{}", headers)])
    assert frame.payload == b"{}"
    assert frame.headers == {
        "yes": True,
        "no": False,
        "byte": -1,
        "short": -2,
        "integer": 65_536,
        "long": 256,
        "bytes": b"\x00\xff",
        "text": "grün",
        "time": 1_700_000_000_000,
        "uuid": bytes(range(16)),
    }
    assert frame.header("text") == "grün"
    assert frame.header("long") == frame.header("missing") == ""


@settings(deadline=None)
@given(FRAMES)
def test_frames_are_the_same_however_the_stream_is_cut(frames):
    stream = b"".join(frames)
    expected = frames_of([stream])
    assert len(expected) == len(frames)
    assert frames_of(every(1, stream)) == expected
    for at in range(len(stream)):
        assert frames_of([stream[:at], stream[at:]]) == expected


@settings(deadline=None)
@given(FRAMES)
def test_a_stream_that_was_cut_off_gives_its_whole_frames_and_says_so(frames):
    stream = b"".join(frames)
    ends = {len(b"".join(frames[:count])): count for count in range(len(frames) + 1)}
    for at in range(len(stream)):
        reader = EventStream()
        whole = reader.feed(stream[:at])
        assert len(whole) == max(count for end, count in ends.items() if end <= at)
        if at in ends:
            assert reader.end() == []
        else:
            with pytest.raises(FramingError, match="ended inside"):
                reader.end()


@settings(deadline=None)
@given(FRAMES, st.data())
def test_a_damaged_byte_is_noticed_and_the_frames_before_it_are_returned(frames, data):
    stream = bytearray(b"".join(frames))
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at] ^= data.draw(st.integers(1, 255))
    reader = EventStream()
    whole = []
    with pytest.raises(FramingError):  # noqa: PT012
        for block in every(data.draw(st.integers(1, 60)), bytes(stream)):
            whole += reader.feed(block)
        reader.end()
    assert whole == frames_of([b"".join(frames)])[: len(whole)]
    assert len(b"".join(frames[: len(whole)])) <= at
    with pytest.raises(FramingError):
        reader.feed(b"")


@settings(deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=4))
def test_no_bytes_trouble_the_reader_of_frames(blocks):
    with suppress(FramingError):
        frames_of(blocks)


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_no_headers_trouble_the_reader_of_frames(headers):
    """The checksums are right: what is wrong was written so."""
    with suppress(FramingError):
        frames_of([framed(b"", headers)])


def test_a_frame_that_is_too_large_is_refused_before_it_is_kept():
    assert frames_of([framed(b"x" * 84)], limit=100)[0].payload == b"x" * 84
    reader = EventStream(limit=100)
    small = framed(b"{}")
    assert len(reader.feed(small + framed(b"x" * 85)[:12])) == 1
    with pytest.raises(FramingError, match="larger than 100 bytes"):
        reader.feed(b"x")


@pytest.mark.parametrize("lengths", [(15, 0), (0, 0), (16, 1), (100, 131_073), (200_000, 131_073)])
def test_lengths_that_cannot_be_are_refused(lengths):
    prelude = struct.pack(">II", *lengths)
    with pytest.raises(FramingError, match="impossible"):
        EventStream().feed(prelude + struct.pack(">I", crc32(prelude)))


def test_a_page_of_html_is_no_event_stream():
    with pytest.raises(FramingError, match="no AWS event stream"):
        EventStream().feed(b"<!DOCTYPE html><title>502</title>")


def test_a_header_without_length_takes_nothing_of_the_next():
    with pytest.raises(FramingError, match="unknown type 10"):
        frames_of([framed(b"", header("a", 10, b""))])
    with pytest.raises(FramingError, match="cannot be read"):
        frames_of([framed(b"", header("a", 9, bytes(15)))])


def test_a_large_frame_in_small_blocks_takes_no_quadratic_time():
    stream = framed(b"x" * 2_000_000, NAMES)
    assert len(frames_of(every(500, stream))[0].payload) == 2_000_000
