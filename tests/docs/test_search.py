"""The docs' own search finds what newcomers look for: their questions, in their words, lead to the right page.

The questions are in `docs/search_questions.toml`. Neighbours: `respan/docs.py`, `pages.py`.
"""

import tomllib

from respan import docs
from tests.docs.pages import DOCS, pages

QUESTIONS = tomllib.loads((DOCS / "search_questions.toml").read_text())["question"]
LOOKED_AT = 3
WANTED_SHARE = 0.9


def test_there_are_enough_questions_and_none_twice():
    assert len({question["ask"] for question in QUESTIONS}) == len(QUESTIONS) >= 60


def test_a_question_is_answered_by_pages_that_exist():
    known = {path.removesuffix(".md") for path in pages()}
    assert [page for question in QUESTIONS for page in question["pages"] if page not in known] == []


def test_the_right_page_is_among_the_first_three():
    index = docs.index()
    missed = {}
    for question in QUESTIONS:
        found = [hit.path for hit in index.search(question["ask"], LOOKED_AT)]
        if not set(found) & set(question["pages"]):
            missed[question["ask"]] = found
    share = 1 - len(missed) / len(QUESTIONS)
    print(f"{share:.1%} of {len(QUESTIONS)} questions; missed: {missed}")
    assert share >= WANTED_SHARE, f"{share:.0%} found; missed: {missed}"


def test_what_pages_are_called_is_said_of_pages_that_exist():
    navigation = tomllib.loads((DOCS / "navigation.toml").read_text())
    assert navigation["called"].keys() <= {path.removesuffix(".md") for path in pages()}
