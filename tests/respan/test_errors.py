"""The list of refusals in `respan/errors.py` is the list of refusals in the code, and each is fit to be answered."""

import importlib
import re
from collections import defaultdict
from pathlib import Path

import pytest

from respan import errors

ROOT = Path(__file__).resolve().parent.parent.parent


def declared() -> dict[str, set[str]]:
    """Return module -> class names, from the docstring."""
    found: dict[str, set[str]] = defaultdict(set)
    module = ""
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"    ([a-z_.]+)? +((?:[A-Z]\w+ ?)+)", line)
        if match:
            module = match[1] or module
            found[module] |= set(match[2].split())
    return dict(found)


def subclasses(of: type) -> set[type]:
    return {each for child in of.__subclasses__() for each in {child, *subclasses(child)}}


def every_error() -> set[type]:
    for app in ("accounts", "billing", "gateway", "respan", "traces"):
        for path in (ROOT / app).glob("*.py"):
            if "Error)" in path.read_text():
                importlib.import_module(f"{app}.{path.stem}")
    return {each for each in subclasses(errors.Error) if not each.__module__.startswith("tests")}


def test_the_list_of_refusals_is_complete():
    found: dict[str, set[str]] = defaultdict(set)
    for each in every_error():
        found[each.__module__].add(each.__name__)
    assert declared() == dict(found)


@pytest.mark.parametrize("error", sorted(every_error(), key=lambda each: each.__name__), ids=lambda each: each.__name__)
def test_a_refusal_has_a_status_a_code_and_a_message(error):
    assert 400 <= error.status < 600
    assert re.fullmatch(r"[a-z][a-z_]+", error.code)
    assert error.message.strip()
