"""Money in templates: `{{ entry.amount|usd }}`. The arithmetic and the wording are `billing.usage`'s."""

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing.usage import usd as text

register = template.Library()


@register.filter
def usd(nano: int | None) -> str | SafeString:
    """Write nano-USD as exact US dollars; hovering tells the number of nano-dollars. Nothing for an unknown amount."""
    if nano is None:
        return ""
    return format_html('<data class="num" value="{}" title="{} nano-USD">{}</data>', nano, f"{nano:,}", text(nano))
