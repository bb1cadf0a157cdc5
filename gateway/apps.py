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
}


class GatewayConfig(AppConfig):
    name = "gateway"
    verbose_name = "Gateway"

    def ready(self) -> None:
        from accounts import audit
        from accounts.organizations import organization_deleted

        audit.add_actions(_ACTIONS)
        organization_deleted.connect(_remove_credentials, dispatch_uid="gateway.credentials")


def _remove_credentials(sender: Any, organization: Any, actor: Any, address: str | None, **_: Any) -> None:
    """Remove the provider keys of an organization, inside the transaction that deletes it."""
    from gateway import credentials
    from gateway.models import Credential

    for credential in Credential.objects.filter(organization=organization):
        credentials.remove(credential=credential, actor=actor, address=address)
