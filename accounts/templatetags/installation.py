"""What pages may need to know of the installation: whether it sends e-mail and takes sign-ups. Holds no logic."""

from django import template
from django.conf import settings

register = template.Library()


@register.simple_tag
def sends_email() -> bool:
    """Tell whether an e-mail server is configured."""
    return bool(settings.EMAIL_IS_CONFIGURED)


@register.simple_tag
def takes_signups() -> bool:
    """Tell whether anybody may sign up."""
    return bool(settings.RESPAN_SIGNUP_OPEN)
