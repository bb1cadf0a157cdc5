"""Django's entry of this app: connects the receivers that record sign-ins and password changes."""

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "accounts"

    def ready(self) -> None:
        from accounts import signin  # noqa: F401  (its receivers connect on import)
