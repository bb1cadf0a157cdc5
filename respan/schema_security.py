"""What drf-spectacular has to know of our authenticator: a key may come in any of three headers.

Imported while the OpenAPI document is built; the schemes themselves are described in `gateway/openapi.yaml`.
Neighbours: `schema.py`, `accounts/authentication.py`.
"""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension


class _Keys(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "accounts.authentication.ApiKeyAuthentication"
    match_subclasses = True
    name = ["bearer", "x-api-key", "x-goog-api-key"]  # noqa: RUF012  (spectacular's declaration)

    def get_security_requirement(self, auto_schema: Any) -> list[dict[str, list[Any]]]:
        return [{name: []} for name in self.name]

    def get_security_definition(self, auto_schema: Any) -> list[dict[str, Any]]:
        bearer = {"type": "http", "scheme": "bearer"}
        return [bearer, *({"type": "apiKey", "in": "header", "name": header} for header in self.name[1:])]
