"""The gateway as a Django application: a deleted organization's provider keys go with it.

Neighbours: `accounts.organizations` (the signal), `accounts.audit` (what our actions are called), `credentials.py`.
"""

from typing import Any, Final

from django.apps import AppConfig

_ACTIONS: Final = {
    "credential.created": "Added a provider key",
    "credential.changed": "Changed a provider key",
    "credential.removed": "Removed a provider key",
    "credential.tested": "Tested a provider key",
    "call_settings.changed": "Changed how calls are carried out",
    "load_balance_group.created": "Made a load balance group",
    "load_balance_group.changed": "Changed a load balance group",
    "load_balance_group.deleted": "Deleted a load balance group",
    "limit.created": "Set a limit",
    "limit.changed": "Changed a limit",
    "limit.deleted": "Deleted a limit",
    "cache.cleared": "Cleared the response cache",
    "cached_answer.deleted": "Deleted a cached answer",
}


class GatewayConfig(AppConfig):
    name = "gateway"
    verbose_name = "Gateway"

    def ready(self) -> None:
        from accounts import audit
        from accounts.organizations import organization_deleted

        audit.add_actions(_ACTIONS)
        organization_deleted.connect(_remove_credentials, dispatch_uid="gateway.credentials")
        organization_deleted.connect(_remove_call_settings, dispatch_uid="gateway.call_settings")
        organization_deleted.connect(_remove_limits, dispatch_uid="gateway.limits")
        organization_deleted.connect(_remove_idempotent_calls, dispatch_uid="gateway.idempotency")
        organization_deleted.connect(_remove_cached_answers, dispatch_uid="gateway.cache_entries")


def _remove_credentials(sender: Any, organization: Any, actor: Any, address: str | None, **_: Any) -> None:
    """Remove the provider keys of an organization, inside the transaction that deletes it."""
    from gateway import credentials
    from gateway.models import Credential

    for credential in Credential.objects.filter(organization=organization):
        credentials.remove(credential=credential, actor=actor, address=address)


def _remove_call_settings(sender: Any, organization: Any, **_: Any) -> None:
    """Remove how its calls were carried out, which names its models and groups."""
    from gateway.models import CallSettings, LoadBalanceGroup

    CallSettings.objects.filter(organization=organization).delete()
    LoadBalanceGroup.objects.filter(organization=organization).delete()


def _remove_limits(sender: Any, organization: Any, **_: Any) -> None:
    """Remove its limits; what was counted is swept away when its time is over."""
    from gateway.models import LimitPolicy

    LimitPolicy.objects.filter(organization=organization).delete()


def _remove_cached_answers(sender: Any, organization: Any, **_: Any) -> None:
    """Remove what its calls were answered."""
    from gateway import cache_entries

    cache_entries.forget(organization.pk)


def _remove_idempotent_calls(sender: Any, organization: Any, **_: Any) -> None:
    """Remove the answers that could have been given again."""
    from gateway.models import IdempotentCall

    IdempotentCall.objects.filter(organization=organization).delete()
