"""The root of every refusal Respan answers with.

Each error is a class with a status, a code and a message, declared beside the function that raises it; this file only
holds the root and what all of them share. It never knows a dialect: `gateway.api` and `respan.api` put an error into
the caller's dialect. All of them (a test compares this list with the code):

    accounts.authentication  ConflictingKeys InsufficientScope MissingKey
    accounts.departure       StillNeeded
    accounts.invitations     AlreadyInvited AlreadyMember InvitationForSomebodyElse InvitationGone TooManyInvitations
    accounts.keys            InvalidKey KeyCheckUnavailable
    accounts.members         LastOwner NoSuchMember RoleTooLow
    accounts.organizations   RetentionTooLong
    billing.codes            CodeExpired CodeUsedUp TooManyGuesses UnknownCode
    billing.holds            InsufficientCredits LedgerUnavailable
    billing.ledger           ApprovalNeeded IdempotencyConflict RefundTooLarge
    billing.prices           PricesUnavailable
    gateway.answers          CallFailed
    gateway.attachments      AttachmentUnavailable
    gateway.attempts         NoTargetLeft
    gateway.cache_api        CacheNotFound
    gateway.cache_entries    CacheNotCleared
    gateway.counting_api     ModelUnknown
    gateway.credentials      CredentialUnreadable CredentialsUnavailable
    gateway.entered          InvalidCredential NameTaken SecretRequired
    gateway.fairness         TooManyCalls
    gateway.files            FileNotFound NoFileAccount
    gateway.google_account   GoogleAccountRefused InvalidGoogleAccount
    gateway.idempotency      IdempotencyAnswerNotKept IdempotencyAnswerTooLarge IdempotencyInProgress
                             IdempotencyKeyReused IdempotencyUnavailable InvalidIdempotencyKey
    gateway.limit_api        LimitNotFound
    gateway.limit_changes    InvalidLimit TooManyLimits
    gateway.offers           NothingFits
    gateway.outgoing         KeyOfNoUse UnsupportedEndpoint UnsupportedParameter
    gateway.param_values     InvalidRequest
    gateway.raw_relay        NoProviderKey UnknownProvider
    gateway.routing          ModelNotFound NothingToPayWith
    gateway.settings_changes GroupGone GroupIdTaken InvalidCallSettings UnknownModel
    gateway.throttle         LimitReached
    gateway.upstream         UpstreamBusy UpstreamDisconnected UpstreamError UpstreamInvalid UpstreamTimeout
                             UpstreamUnreachable
    respan.api               DatabaseUnavailable InvalidFilter MalformedRequest MethodNotAllowed
    respan.asgi              BadRequest BodyTimeout BodyTooLarge NotFound
    respan.outbound          ForbiddenAddress
    traces.api               LogNotFound
    traces.query             InvalidCursor InvalidQuery
    traces.reading           SearchTooSlow
    traces.spool             SpoolUnavailable
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
