"""The root of every refusal Respan answers with.

Each error is a class with a status, a code and a message, declared beside the function that raises it; this file only
holds the root and what all of them share. It never knows a dialect: `gateway.api` and `respan.api` put an error into
the caller's dialect.

    Error
    ├── accounts.authentication: MissingKey, InvalidKey, ConflictingKeys
    ├── billing.ledger:          InsufficientCredits, LedgerUnavailable
    ├── gateway.params:          InvalidRequest and its kin
    ├── gateway.routing:         ModelNotFound, NothingToPayWith
    ├── gateway.upstream:        UpstreamError and its kin
    └── respan.asgi:             NotFound, MethodNotAllowed, BodyTooLarge, BodyTimeout
"""

from typing import Any, ClassVar


class Error(Exception):
    """A refusal: `status` (HTTP), `code` (stable, documented), `message` (says what to do next).

    `param` names the offending member of the body; `extra` holds further public members of the answer;
    `headers` holds response headers.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    message: str = "Something went wrong on our side. Try again; if it stays, tell the operator the log id."

    def __init__(
        self,
        message: str | None = None,
        *,
        param: str | None = None,
        extra: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.message = message or type(self).message
        self.param = param
        self.extra = extra or {}
        self.headers = headers or {}
        super().__init__(self.message)
