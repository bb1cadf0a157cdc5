"""Money in templates: `{{ entry.amount|usd }}`. The arithmetic and the wording are `billing.usage`'s."""

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing.usage import NANO
from billing.usage import usd as text

register = template.Library()


@register.filter
def usd(nano: int | None) -> str | SafeString:
    """Write nano-USD as exact US dollars; hovering tells the number of nano-dollars. Nothing for an unknown amount."""
    if nano is None:
        return ""
    return format_html('<data class="num" value="{}" title="{} nano-USD">{}</data>', nano, f"{nano:,}", text(nano))


@register.filter
def usd_in_parts(nano: int) -> SafeString:
    """Write an exact amount with what is below a cent as a part of its own: small in a heading, aligned in a list.

    An amount of less than a cent stays whole, or it would look like nothing.
    """
    whole, point, digits = text(nano).partition(".")
    return format_html(
        '<data class="num" value="{}" title="{} nano-USD">{}{}{}<span class="below-cent{}">{}</span></data>',
        nano, f"{nano:,}", whole, point, digits[:2], "" if abs(nano) < NANO // 100 else " minor", digits[2:],
    )  # fmt: skip


@register.filter
def signed(nano: int) -> str:
    """Return the plus sign of an amount that came in."""
    return "+" if nano > 0 else ""


@register.filter
def separated(number: int) -> str:
    """Write a whole number with separators."""
    return f"{number:,}"
