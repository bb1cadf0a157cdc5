"""The tags of every page: icons, built files, moments; and that the built files are the ones templates ask for."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django import forms
from django.template import Context, Template

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "respan" / "static" / "dist"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def render(text: str, **context: object) -> str:
    return Template("{% load page %}" + text).render(Context(context))


def test_every_icon_a_template_names_was_built() -> None:
    built = set((ROOT / "respan/assets/icons.txt").read_text().split())
    named = {
        name
        for path in (ROOT / "templates").rglob("*.html")
        for name in re.findall(r'{% icon "([a-z0-9-]+)"', path.read_text())
    }
    assert named
    assert named - built == set()


def test_an_icon_is_decoration_unless_it_has_a_label() -> None:
    assert 'aria-hidden="true"' in render('{% icon "house" %}')
    labelled = render('{% icon "house" label %}', label='"><script>')
    assert 'role="img"' in labelled
    assert "<script>" not in labelled


def test_a_built_file_has_a_new_address_when_it_changes() -> None:
    assert re.fullmatch(r"/static/dist/respan\.css\?v=[0-9a-f]{10}", render("{% asset 'respan.css' %}"))
    with pytest.raises(KeyError):
        render("{% asset 'nothing.css' %}")


def test_what_every_page_loads_is_far_below_a_hundred_kilobytes() -> None:
    size = sum((DIST / name).stat().st_size for name in ("respan.css.br", "respan.js.br", "theme.js.br", "inter.woff2"))
    assert size < 75_000


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (NOW, "just now"),
        (NOW - timedelta(minutes=5), "5 minutes ago"),
        (NOW - timedelta(hours=1), "1 hour ago"),
        (NOW - timedelta(days=3), "3 days ago"),
        (NOW + timedelta(days=2), "in 2 days"),
        (NOW - timedelta(days=90), "24 Aug 2026"),
    ],
)
def test_a_moment_is_told_by_its_distance_with_the_exact_time_behind_it(at: datetime, text: str) -> None:
    drawn = render("{% moment at now %}", at=at, now=NOW)
    assert f">{text}</time>" in drawn
    assert f'title="{at:%Y-%m-%d %H:%M:%S} UTC"' in drawn


def test_a_moment_that_never_was_is_told() -> None:
    assert render("{% moment at %}", at=None) == "never"


class _Form(forms.Form):
    name = forms.CharField(help_text="Short.")
    kind = forms.ChoiceField(choices=[("a", "A")])
    agreed = forms.BooleanField()


def test_a_field_has_its_label_its_help_and_its_error() -> None:
    form = _Form({"kind": "a"})
    form.is_valid()
    drawn = render("{% field form.name %}{% field form.kind %}{% field form.agreed %}", form=form)
    assert '<label for="id_name"' in drawn
    assert 'aria-describedby="id_name_helptext' in drawn
    assert 'aria-invalid="true"' in drawn
    assert "This field is required." in drawn
    assert 'class="native-select"' in drawn
