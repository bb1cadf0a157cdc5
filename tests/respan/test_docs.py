"""The docs: what a page is made of, how it is drawn, what the search finds, and the addresses that show all of it."""

import re
import time
from collections.abc import Callable
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import Client, override_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from accounts import keys
from respan import docs
from respan.docs_drawing import coloured, draw
from respan.docs_pages import Malformed, Page, canonical, read, target
from respan.docs_search import Search, root, snippet

HEAD = "---\ntitle: A page\ndescription: What it is about.\norder: 3\n---\n\n"
Tree = Callable[..., docs.Index]


def a_page(body: str, path: str = "gateway/page") -> Page:
    return read(path, f"{HEAD}# A page\n\n{body}")


def html(body: str, path: str = "gateway/page") -> str:
    return draw(a_page(body, path)).filled(base_url="http://r.example", api_key="rsp_live_ab...")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Make an index of files: `tree(**{"gateway/streaming": "text"})`; a first page is there."""

    def make(navigation: str = "", **pages: str) -> docs.Index:
        named = '[[folder]]\nname = ""\ntitle = "Start"\n[[folder]]\nname = "gateway"\ntitle = "Gateway"\n'
        (tmp_path / "navigation.toml").write_text(navigation or named)
        for path, text in {"index": "Welcome.", **pages}.items():
            file = tmp_path / f"{path}.md"
            file.parent.mkdir(exist_ok=True)
            title = path.rpartition("/")[2].replace("-", " ").capitalize()
            file.write_text(f"---\ntitle: {title}\ndescription: All of {title}.\n---\n\n# {title}\n\n{text}\n")
        return docs.Index(tmp_path, base_url="http://r.example")

    return make


# Pages


def test_front_matter_gives_title_description_and_order() -> None:
    page = a_page("Text.")
    assert (page.title, page.description, page.order) == ("A page", "What it is about.", 3)
    assert (page.folder, page.url, page.markdown_url) == ("gateway", "/docs/gateway/page/", "/docs/gateway/page.md")
    assert page.source == "# A page\n\nText.\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# No front matter", "does not begin with front matter"),
        ("---\ntitle: x\nauthor: me\n---\n# x", "cannot have the line 'author: me'"),
        ("---\ntitle: x\ntitle: y\n---\n# x", "cannot have the line 'title: y'"),
        ("---\ndescription: x\n---\n# x", "has no title"),
        ("---\ntitle: x\norder: first\n---\n# x", "'first' is no number"),
        ("---\ntitle: x\n---\nNo heading", "this one has 0"),
        ("---\ntitle: x\n---\n# One\n\n# Two", "this one has 2"),
    ],
)
def test_a_malformed_page_is_an_error_that_names_its_file(text: str, says: str) -> None:
    with pytest.raises(Malformed, match=r"docs/gateway/page\.md") as found:
        read("gateway/page", text)
    assert says in str(found.value)


def test_a_comment_in_code_is_no_heading() -> None:
    page = a_page("```bash\n# not a heading\nls\n```\n\n## Two\n\nmore")
    assert [section.title for section in page.sections] == ["A page", "Two"]
    assert page.sections[0].code == "# not a heading\nls\n"


def test_a_folder_that_the_navigation_does_not_name_is_an_error(tree: Tree) -> None:
    with pytest.raises(Malformed, match="no folder elsewhere"):
        tree(**{"elsewhere/page": "Text."})


def test_pages_stand_in_the_order_of_the_navigation(tree: Tree) -> None:
    index = tree(**{"gateway/streaming": "x", "gateway/files": "y", "about": "z"})
    assert [page.path for page in index.pages] == ["about", "index", "gateway/files", "gateway/streaming"]
    before, after = index.around(index.pages[2])
    assert before
    assert after
    assert (before.path, after.path) == ("index", "gateway/streaming")


@pytest.mark.parametrize(
    "spelled",
    [
        "gateway/streaming",
        "/docs/gateway/streaming/",
        "docs/gateway/streaming.md",
        "/gateway/streaming.md#why",
        "gateway/streaming/?x=1",
    ],
)
def test_a_page_is_found_by_any_spelling_of_its_path(tree: Tree, spelled: str) -> None:
    found = tree(**{"gateway/streaming": "x"}).page(spelled)
    assert found
    assert found.path == "gateway/streaming"


@pytest.mark.parametrize("spelled", ["", "/", "/docs/", "docs", "index.md"])
def test_the_root_is_the_first_page(tree: Tree, spelled: str) -> None:
    found = tree().page(spelled)
    assert found
    assert found.path == "index"


@given(st.text())
def test_a_canonical_path_has_neither_fragment_nor_slashes_around(path: str) -> None:
    found = canonical(path)
    assert found
    assert "#" not in found
    assert found == found.strip("/")


@pytest.mark.parametrize(
    ("link", "leads_to"),
    [
        ("files.md", "gateway/files"),
        ("../quickstart.md#two", "quickstart"),
        ("/docs/billing/credits/", "billing/credits"),
        ("../../README.md", None),
        ("https://example.com/x.md", None),
        ("#here", None),
        ("{{base_url}}/api/", None),
    ],
)
def test_a_link_between_files_leads_to_a_page(link: str, leads_to: str | None) -> None:
    assert target("gateway/page", link) == leads_to


# Drawing


def test_links_between_files_become_links_between_pages() -> None:
    assert '<a href="/docs/quickstart/#two">' in html("[x](../quickstart.md#two)")
    assert '<a href="/docs/">' in html("[x](../index.md)")


def test_raw_html_and_dangerous_links_stay_text() -> None:
    drawn = html("<script>alert(1)</script>\n\n[x](javascript:alert(1)) <img src=x onerror=y>")
    assert "<script" not in drawn
    assert "<img" not in drawn
    assert "href" not in drawn


def test_headings_have_anchors_that_do_not_repeat() -> None:
    drawing = draw(a_page("## Same `name`\n\n## Same name\n\n### Deeper"))
    assert [(entry.level, entry.anchor) for entry in drawing.contents] == [
        (2, "same-name"),
        (2, "same-name-1"),
        (3, "deeper"),
    ]
    assert '<h2 id="same-name-1">' in drawing.html


def test_headings_go_down_one_step_at_a_time() -> None:
    assert '<h3 id="deep">' in html("## Two\n\n#### Deep")


def test_code_is_coloured_by_classes_and_never_by_styles() -> None:
    drawn = html('```python\nclient = OpenAI(api_key="x")  # why\n```\n\n| a | b |\n|---|--:|\n| 1 | 2 |')
    assert '<span class="hl-string">&quot;x&quot;</span>' in drawn.replace('"x"', "&quot;x&quot;")
    assert '<span class="hl-comment"># why</span>' in drawn
    assert 'class="num"' in drawn
    assert "style=" not in drawn


@pytest.mark.parametrize("language", ["python", "typescript", "bash", "json", "toml", "text", "", "no-such-language"])
def test_colours_change_no_character(language: str) -> None:
    code = 'curl "{x}/a?b=1&c" \\\n  -d \'{"a": [1, null]}\'   # <b>\n\n\tlast'
    assert unescape(re.sub(r"</?span[^>]*>", "", coloured(code, language))) == code


@pytest.mark.parametrize("language", ["python", "typescript", "bash", "json", "text"])
def test_placeholders_are_replaced_inside_colours(language: str) -> None:
    drawn = html(f'```{language}\nx = "{{{{base_url}}}}/api/" + "{{{{api_key}}}}"\n```\n\n[a]({{{{base_url}}}}/x)')
    assert "http://r.example/api/" in drawn
    assert "rsp_live_ab..." in drawn
    assert 'href="http://r.example/x"' in drawn
    assert "Placeholder" not in drawn
    assert "PlaceOf" not in drawn


def test_what_replaces_a_placeholder_is_escaped() -> None:
    drawn = draw(a_page("`{{api_key}}`")).filled(base_url="", api_key="<script>")
    assert "<script>" not in drawn
    assert "&lt;script&gt;" in drawn


def test_neighbouring_languages_become_tabs_and_others_do_not() -> None:
    three = "```python\na\n```\n\n```typescript\nb\n```\n\n```bash\ncurl x\n```\n"
    assert html(three).count('role="tab"') == 3
    assert ">curl</button>" in html(three)
    assert 'role="tab"' not in html("```python\na\n```\n\n```python\nb\n```\n\n```json\n{}\n```\n")


def test_what_a_fence_says_to_tests_is_not_shown() -> None:
    assert "no-run" not in html("```bash no-run\n# Needs a provider.\nls\n```")


# Search


@pytest.fixture
def library(tree: Tree) -> docs.Index:
    return tree(
        **{
            "gateway/streaming": "Tokens as they come.\n\n## Usage in a stream\n\nThe last chunk has the usage.",
            "gateway/files": "Upload a file.\n\n## Limits of size\n\nA file may be streamed to us. Streams are cheap.",
            "gateway/parameters": "`customer_identifier` says who asked.\n\n```json\n{\"stream\": true}\n```",
            "errors": "What to do when a call is refused: 402 means no credits.",
        }
    )  # fmt: skip


def paths(index: docs.Index, query: str) -> list[str]:
    return [hit.path for hit in index.search(query, 10)]


def test_a_title_counts_more_than_text_and_text_more_than_code(library: docs.Index) -> None:
    assert paths(library, "stream") == ["gateway/streaming", "gateway/files", "gateway/parameters"]


def test_the_last_word_may_be_a_beginning(library: docs.Index) -> None:
    assert paths(library, "strea")[0] == "gateway/streaming"
    assert paths(library, "custo") == ["gateway/parameters"]


def test_a_word_the_pages_do_not_use_finds_those_that_mean_the_same() -> None:
    page = a_page("Credits pay for calls.")
    found = Search([page], {"balances": "credit"}).find("balance", 3)
    assert [hit.path for hit in found] == [page.path]


def test_a_page_is_found_by_what_people_call_its_subject(tree: Tree) -> None:
    navigation = '[[folder]]\nname = ""\ntitle = "Start"\n[called]\nbooks = "double entry, ledger"\n'
    library = tree(navigation, books="What is booked.", other="Entry of a building. A double room.")
    assert paths(library, "ledger") == ["books"]
    assert paths(library, "double entry")[0] == "books"


def test_words_side_by_side_win_over_the_same_words_apart(tree: Tree) -> None:
    library = tree(
        keys="Text.\n\n## Key of a provider\n\nHere.\n\n## Rotation of one\n\nThere.",
        turns="Text.\n\n## Key rotation\n\nHere.\n\n## A provider of it\n\nThere.",
    )
    assert paths(library, "key rotation")[0] == "turns"


def test_a_misspelled_word_means_what_the_word_means(tree: Tree) -> None:
    library = [a_page("Credits pay for calls.", "credits"), a_page("A sheet of balances.", "sheet")]
    found = Search(library, {"balances": "credit"}).find("balancse", 3)
    assert {hit.path for hit in found} == {"credits", "sheet"}


def test_forms_of_a_word_and_misspellings_are_found(library: docs.Index) -> None:
    assert paths(library, "how do I upload files?")[0] == "gateway/files"
    assert paths(library, "how can i get streemed answers now")[0] == "gateway/streaming"
    assert paths(library, "customer_identifier")[0] == "gateway/parameters"


def test_a_hit_names_the_best_section_of_its_page(library: docs.Index) -> None:
    hit = library.search("usage in the last chunk", 1)[0]
    assert (hit.path, hit.section, hit.anchor) == ("gateway/streaming", "Usage in a stream", "usage-in-a-stream")
    assert hit.url == "/docs/gateway/streaming/#usage-in-a-stream"
    assert hit.snippet == "The last chunk has the usage."


@pytest.mark.parametrize("query", ["", "   ", "???", "\x00", "☃"])
def test_a_query_without_words_finds_nothing(library: docs.Index, query: str) -> None:
    assert library.search(query, 10) == []


def test_the_limit_is_kept(library: docs.Index) -> None:
    assert len(library.search("stream", 2)) == 2
    assert library.search("stream", 0) == []


@settings(max_examples=200)
@given(st.text(max_size=400), st.integers(-1, 20))
def test_no_query_fails(query: str, limit: int) -> None:
    page = a_page("Some words: call, key, stream. `{{base_url}}`\n\n## Two\n\nMore of them.")
    found = Search([page], {}).find(query, limit)
    assert len(found) <= max(limit, 0)


def test_a_search_without_pages_finds_nothing() -> None:
    assert Search([], {}).find("word", 3) == []


@pytest.mark.parametrize(
    "forms",
    [
        "stream streams streamed streaming",
        "cache caches cached caching",
        "key keys",
        "price prices pricing",
        "call calls called calling",
        "query queries",
        "error errors",
        "limit limits limited limiting",
        "encrypt encrypts encrypted encryption",
        "deploy deploys deployed deployment deployments",
        "connect connection connections",
    ],
)
def test_forms_of_a_word_have_one_root(forms: str) -> None:  # fmt: skip
    assert len({root(form) for form in forms.split()}) == 1


def test_a_snippet_is_cut_around_the_word() -> None:
    text = " ".join(["before"] * 60 + ["streaming"] + ["after"] * 60)
    found = snippet(text, {"stream"})
    assert "streaming" in found
    assert found.startswith("…")
    assert found.endswith("…")
    assert len(found) <= 182


def test_a_search_takes_less_than_twenty_milliseconds() -> None:
    index = docs.index()
    index.search("first", 1)
    queries = [
        "stream",
        "how do i rotate a provider key",
        "s",
        "postgresql backup restore",
        "claude code",
        "misspeled wrds",
    ]
    took = []
    for query in queries * 20:
        began = time.process_time()
        index.search(query, 10)
        took.append(time.process_time() - began)
    assert sorted(took)[int(len(took) * 0.95)] < 0.02


# The docs of this repository


def test_every_page_is_read_and_drawn() -> None:
    index = docs.index()
    assert {"index", "architecture", "performance"} <= {page.path for page in index.pages}
    for page in index.pages:
        drawn = draw(page).filled(base_url="x", api_key="y")
        assert drawn.count("<h1") == 1, page.path
        assert "style=" not in drawn, page.path
        assert page.description, page.path


# Addresses


def get(path: str, user: Any = None, **headers: str) -> Any:
    client = Client()
    if user is not None:
        client.force_login(user)
    return client.get(path, headers=headers or None)


@pytest.mark.django_db
@override_settings(RESPAN_BASE_URL="https://respan.example")
def test_everybody_reads_the_docs() -> None:
    answer = get("/docs/")
    assert answer.status_code == 200
    assert b"https://respan.example" in answer.content
    assert b"unsafe-inline" not in answer["Content-Security-Policy"].encode()
    assert b"<style" not in answer.content
    assert b" style=" not in answer.content


@pytest.mark.django_db
def test_a_signed_in_reader_sees_the_beginning_of_an_own_key(
    cast: SimpleNamespace, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tree(index="The key is {{api_key}}.")
    monkeypatch.setattr("respan.docs_views.index", lambda: index)
    secret = keys.issue(
        organization=cast.organization, name="mine", environment="production", created_by=cast.owner
    ).secret
    body = get("/docs/", cast.owner).content.decode()
    assert f"key is {secret[:13]}..." in body
    assert secret not in body
    assert "key is YOUR_RESPAN_API_KEY" in get("/docs/").content.decode()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("asked", "leads_to"), [("/docs/index/", "/docs/"), ("/docs/architecture", "/docs/architecture/")]
)
def test_other_spellings_lead_to_the_page(asked: str, leads_to: str) -> None:
    answer = get(asked)
    assert answer.status_code in (301, 302)
    assert answer["Location"] == leads_to


@pytest.mark.django_db
def test_an_unknown_page_names_the_nearest() -> None:
    answer = get("/docs/architectur/")
    assert answer.status_code == 404
    assert b'href="/docs/architecture/"' in answer.content
    assert get("/docs/%00/").status_code == 404
    assert get(f"/docs/{'x' * 3000}/").status_code == 404


@pytest.mark.django_db
@override_settings(RESPAN_BASE_URL="https://respan.example")
def test_a_page_is_also_markdown() -> None:
    answer = get("/docs/index.md")
    assert (answer.status_code, answer["Content-Type"]) == (200, "text/markdown; charset=utf-8")
    assert answer.content.startswith(b"# Respan")
    assert b"{{" not in answer.content
    assert b"https://respan.example/api/" in answer.content
    missing = get("/docs/architectur.md")
    assert missing.status_code == 404
    assert b"/docs/architecture.md" in missing.content


@pytest.mark.django_db
@override_settings(RESPAN_BASE_URL="https://respan.example")
def test_programs_find_a_list_of_all_pages_and_all_of_them() -> None:
    listed, whole = get("/llms.txt"), get("/llms-full.txt")
    assert listed["Content-Type"] == whole["Content-Type"] == "text/plain; charset=utf-8"
    for page in docs.index().pages:
        assert f"](https://respan.example{page.markdown_url})" in listed.content.decode()
        assert f"Source: https://respan.example{page.url}\n" in whole.content.decode()
    assert b"{{base_url}}" not in whole.content
    assert b"{{api_key}}" not in whole.content


@pytest.mark.django_db
def test_the_search_is_a_page_and_a_fragment() -> None:
    page = get("/docs/search/?q=quickstart")
    fragment = get("/docs/search/?q=quickstart", **{"HX-Request": "true"})
    assert b"<html" in page.content
    assert b"<html" not in fragment.content
    assert b'href="/docs/quickstart/' in fragment.content
    assert get("/docs/search/", **{"HX-Request": "true"}).content.strip() == b""


@pytest.mark.django_db
def test_what_is_searched_for_is_text() -> None:
    answer = get("/docs/search/?q=%3Cscript%3Ealert(1)%3C/script%3E%00").content
    assert b"<script>alert" not in answer
    assert b"&lt;script&gt;" in answer
