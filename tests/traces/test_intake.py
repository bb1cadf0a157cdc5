"""The door into traces: the spool of this process, and bodies fit to be kept."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from tests.traces.calls import accepted, finished
from traces import intake, spans, spool
from traces.spans import Counting

PIXEL = base64.b64encode(bytes(range(256)) * 3).decode()
DIGEST = hashlib.sha256(bytes(range(256)) * 3).hexdigest()


@pytest.fixture
def spool_dir(tmp_path, settings):
    """A spool of the test's own; the process's writer before and after it is another one."""
    intake.close()
    settings.RESPAN_SPOOL_DIR = tmp_path / "spool"
    yield settings.RESPAN_SPOOL_DIR
    intake.close()


def records(spool_dir, owner):
    folder = spool_dir / owner
    return [record.data for name in spool.segments(folder) for record in spool.Tail(folder / str(name)).read()]


def test_call_is_in_the_spool_of_the_process_that_holds_for_it(spool_dir):
    call = accepted()
    intake.opened(call)
    intake.finished(finished(call))
    assert spool.owners(spool_dir) == [intake.owner()]
    first, second = records(spool_dir, intake.owner())
    assert spans.outline(first) == call
    assert spans.decode_finished(second).id == call.id


def test_unwritable_spool_refuses_a_call_and_counts_what_it_drops(spool_dir):
    spool_dir.parent.mkdir(exist_ok=True)
    spool_dir.write_text("in the way")
    with pytest.raises(intake.SpoolUnavailable):
        intake.opened(accepted())
    with pytest.raises(intake.SpoolUnavailable):
        intake.owner()
    before = intake.drops()
    intake.finished(finished())
    assert intake.drops() == before + 1
    assert spool_dir.read_text() == "in the way"


def test_removed_data_directory_gets_a_new_folder(spool_dir):
    intake.opened(accepted())
    first = intake.owner()
    shutil.rmtree(spool_dir)
    time.sleep(spool.SEGMENT_AGE_S + 3 * spool.SYNC_INTERVAL_S)  # the segment would be closed: there is no next one
    intake.opened(accepted())
    assert intake.owner() != first
    assert len(records(spool_dir, intake.owner())) == 1


def test_forked_child_gets_a_folder_of_its_own(spool_dir):
    program = """
import os, sys
os.environ["RESPAN_DATA_DIR"] = sys.argv[1]
import django; django.setup()
from traces import intake
mine = intake.owner()
if os.fork() == 0:
    print(intake.owner() != mine, flush=True)
    os._exit(0)
os.wait()
print(intake.owner() == mine, flush=True)
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(spool_dir.parent)],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "respan.settings"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["True", "True"]


def test_endless_text_to_count_is_cut(spool_dir):
    intake.finished(finished(usage=None, counting=Counting(input_text="x" * 5_000_000, output_text="y", images=3)))
    (raw,) = records(spool_dir, intake.owner())
    counting = spans.decode_finished(raw).counting
    assert (len(counting.input_text), counting.output_text, counting.images) == (4_000_000, "y", 3)


def test_body_without_data_urls_is_kept_as_it_came():
    body = b'{"messages": [{"content": "the data: none"}]}'
    assert intake.redact(body) == (body, False)


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{PIXEL}",
        f"data:image/png;base64,{PIXEL.rstrip('=')}",
        f"data:image/png;charset=utf-8;base64,{PIXEL}",
        f"data:image/png;base64,{PIXEL.replace('+', '-').replace('/', '_')}",
    ],
)
def test_data_url_becomes_its_digest(url):
    redacted, is_cut = intake.redact(json.dumps({"image_url": {"url": url}, "n": 1}).encode())
    assert json.loads(redacted) == {
        "image_url": {"url": {"sha256": DIGEST, "bytes": 768, "type": "image/png"}},
        "n": 1,
    }
    assert not is_cut


def test_escaped_slashes_are_part_of_a_data_url():
    body = json.dumps({"url": f"data:image/png;base64,{PIXEL}"}).replace("/", "\\/").encode()
    assert json.loads(intake.redact(body)[0]) == {"url": {"sha256": DIGEST, "bytes": 768, "type": "image/png"}}


def test_data_url_inside_a_text_is_named_in_it():
    text = f'look: ![x](data:image/png;base64,{PIXEL}) "data:;base64,aGk=" end'
    redacted, _ = intake.redact(json.dumps({"content": text}).encode())
    content = json.loads(redacted)["content"]
    assert f"![x]([image/png, 768 bytes, sha256 {DIGEST}])" in content
    assert '"[text/plain, 2 bytes, sha256' in content
    assert content.endswith('" end')


@pytest.mark.parametrize(
    "value",
    [
        {"data:image/png;base64,AAAA": 1},
        {"text": 'said "data:image/png;base64,AAAA'},
        {"text": 'data:image/png;base64,AAAA" said'},
        {"text": json.dumps({"url": "data:image/png;base64,AAAA"})},
        {"text": "data:image/png;base64,A"},
        {"text": "data:text/plain,hello"},
        {"text": "data:;base64,"},
        ["data:image/png;base64,AAAA", "data:image/png;base64,BBBB"],
    ],
)
def test_redacted_json_is_still_json(value):
    json.loads(intake.redact(json.dumps(value).encode())[0])


def test_large_body_is_cut_between_characters_and_marked(settings):
    settings.RESPAN_MAX_STORED_BODY_BYTES = 10
    assert intake.redact("abcdefgh€uro".encode()) == (b"abcdefgh", True)
    assert intake.redact(b"0123456789") == (b"0123456789", False)


def test_image_is_replaced_before_the_body_is_cut():
    image = base64.b64encode(os.urandom(400_000)).decode()
    body = json.dumps({"url": f"data:image/jpeg;base64,{image}", "after": "still here"}).encode()
    redacted, is_cut = intake.redact(body)
    assert json.loads(redacted)["after"] == "still here"
    assert not is_cut
