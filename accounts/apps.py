"""Django's entry of this app: connects the receivers that record sign-ins and seal second factors."""

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "accounts"

    def ready(self) -> None:
        from accounts import factor_sealing, signin  # noqa: F401  (their receivers connect on import)
