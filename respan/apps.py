"""Registers the roof with Django: its checks. Holds nothing else."""

from django.apps import AppConfig


class RespanConfig(AppConfig):
    """The product around the apps."""

    name = "respan"

    def ready(self) -> None:
        from respan import checks  # noqa: F401  (registers itself)
